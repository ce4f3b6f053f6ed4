// Npy: files of numpy, damaged headers, writing.
#include "formats/npy.h"

#include "formats/test_support.h"

namespace westlake {
namespace {

std::string npy_file(std::string header, std::string_view data, char major = 1) {
  std::string out = "\x93NUMPY";
  out += major;
  out += '\0';
  if (major == 1) append_number(out, static_cast<uint16_t>(header.size()));
  if (major != 1) append_number(out, static_cast<uint32_t>(header.size()));
  return out + header + std::string(data);
}

Result<Npy> parse(const std::string& file) {
  return Npy::from_bytes(as_bytes(file), "x.npy");
}

TEST(Npy, ReadsWhatNumpyWrites) {
  struct Case {
    const char* file;
    DType dtype;
    std::vector<int64_t> shape;
    std::vector<float> floats;
    std::vector<int32_t> ints;
  };
  const Case cases[] = {
      {"f4", DType::kF32, {2, 3}, {0, 1, 2, 3, 4, 5}, {}},
      {"f2", DType::kF16, {3}, {0, 1, 2}, {}},
      {"i4", DType::kI32, {4}, {}, {-2, -1, 0, 1}},
      {"i8", DType::kI64, {2, 1}, {}, {1, -5}},
      {"u1", DType::kU8, {2}, {}, {0, 255}},
      {"b1", DType::kU8, {2}, {}, {1, 0}},
      {"scalar", DType::kF32, {}, {2.5f}, {}},
      {"empty", DType::kF32, {0, 5}, {}, {}},
      {"v2", DType::kI32, {2}, {}, {0, 1}},
      {"v3", DType::kI32, {2}, {}, {0, 1}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.file);
    auto array = Npy::open(golden(std::string(c.file) + ".npy"));
    ASSERT_TRUE(array.ok()) << array.error().message;
    EXPECT_EQ(array->view().dtype, c.dtype);
    EXPECT_EQ(array->view().shape, c.shape);
    const bool is_float = c.dtype == DType::kF32 || c.dtype == DType::kF16;
    auto floats = array->floats();
    auto ints = array->int32s();
    ASSERT_EQ(floats.ok(), is_float);
    ASSERT_EQ(ints.ok(), !is_float);
    EXPECT_EQ(is_float ? *floats : std::vector<float>(), c.floats);
    EXPECT_EQ(is_float ? std::vector<int32_t>() : *ints, c.ints);
  }
}

TEST(Npy, UnsupportedArrays) {
  expect_error(Npy::open(golden("f8.npy")), Code::kUnsupported, {"f8.npy", "'<f8'", "<f4"});
  expect_error(Npy::open(golden("big_endian.npy")), Code::kUnsupported, {"'>f4'"});
  expect_error(Npy::open(golden("fortran.npy")), Code::kUnsupported, {"fortran_order", "ascontiguousarray"});
  expect_error(Npy::open(golden("none.npy")), Code::kNotFound, {"none.npy"});
}

TEST(Npy, IdsOutsideInt32) {
  std::string data;
  append_number(data, int64_t{1} << 31);
  const std::string file = npy_file("{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}", data);
  auto array = parse(file);
  ASSERT_TRUE(array.ok());
  expect_error(array->int32s(), Code::kInvalidArgument, {"x.npy", "2147483648", "element 0"});
  expect_error(array->floats(), Code::kInvalidArgument, {"i64"});
}

TEST(Npy, DamagedHeaders) {
  const std::string data(8, '\1');
  struct Case {
    const char* header;
    Code code;
    std::string_view word;
  };
  const Case cases[] = {
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", Code::kCorrupt, "needs 12"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", Code::kCorrupt, "needs 4"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", Code::kCorrupt, "whole numbers"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", Code::kCorrupt, "below 2^63"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,)}", Code::kCorrupt, "2^63"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}", Code::kCorrupt,
       "2^63"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", Code::kCorrupt, "'('"},
      {"{'descr': '<f4', 'fortran_order': False}", Code::kCorrupt, "lacks"},
      {"{'descr': '<f4', 'descr': '<i4', 'fortran_order': False, 'shape': (2,)}", Code::kCorrupt, "'descr'"},
      {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", Code::kCorrupt, "True or False"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", Code::kCorrupt, "'<f4'"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", Code::kUnsupported, "'|O'"},
      {"{'other': 1}", Code::kCorrupt, "'other'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", Code::kCorrupt, "nothing more"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", Code::kCorrupt, "'}'"},
      {"{'descr", Code::kCorrupt, "key"},
      {"", Code::kCorrupt, "'{'"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header);
    expect_error(parse(npy_file(c.header, data)), c.code, {"x.npy", c.word});
  }
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}";
  EXPECT_TRUE(parse(npy_file(good, data)).ok());
  expect_error(parse(npy_file(good, data, 4)), Code::kUnsupported, {"version 4"});
  expect_error(parse("PK\3\4"), Code::kCorrupt, {"NUMPY"});
}

TEST(Npy, EveryTruncationIsAnError) {
  const std::string whole = read_whole(golden("f4.npy"));
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(parse(whole.substr(0, n)).ok()) << n;
  EXPECT_FALSE(parse(whole + "x").ok());
}

TEST(NpyWriter, WritesWhatNumpyWrites) {
  const TempFolder folder;
  const std::string path = folder.file("x.npy");
  const std::vector<float> floats = {0, 1, 2, 3, 4, 5};
  ASSERT_TRUE(write_npy(path, floats, {2, 3}).ok());
  EXPECT_EQ(read_whole(path), read_whole(golden("f4.npy")));
  const std::vector<int32_t> ids = {-2, -1, 0, 1};
  ASSERT_TRUE(write_npy(path, ids, {4}).ok());
  EXPECT_EQ(read_whole(path), read_whole(golden("i4.npy")));
  ASSERT_TRUE(write_npy(path, std::span<const float>(), {0, 5}).ok());
  EXPECT_EQ(read_whole(path), read_whole(golden("empty.npy")));
}

TEST(NpyWriter, RowByRow) {
  const TempFolder folder;
  const std::string path = folder.file("logits.npy");
  auto writer = NpyWriter::create(path, DType::kF32, {3, 4});
  ASSERT_TRUE(writer.ok());
  for (int t = 0; t < 3; ++t) {
    const std::vector<float> row(4, static_cast<float>(t));
    ASSERT_TRUE(writer->append(row).ok());
    EXPECT_FALSE(is_file(path));
  }
  ASSERT_TRUE(writer->finish().ok());
  auto array = Npy::open(path);
  ASSERT_TRUE(array.ok()) << array.error().message;
  EXPECT_EQ(array->view().shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ((*array->floats())[11], 2.0f);
  expect_error(NpyWriter::create(folder.file("no/x.npy"), DType::kF32, {1}), Code::kIo, {"no/x.npy"});
}

}  // namespace
}  // namespace westlake
