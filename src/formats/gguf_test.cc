// GGUF: files of the public package, split files, damaged files.
#include "formats/gguf.h"

#include <functional>
#include <optional>

#include "formats/test_support.h"

namespace westlake {
namespace {

// A file in memory, field by field, so that a test can put anything into any field.
struct Draft {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t n_tensors = 2, n_metadata = 3;
  uint32_t key_type = 4;  // u32
  std::string key = "test.width", other = "test.names";
  uint64_t key_length = 10;
  uint32_t element_type = 8;  // string
  uint64_t array_count = 2, string_length = 1;
  uint32_t alignment = 32, alignment_type = 4;
  uint32_t n_dims = 2, ggml_type = 0;
  std::vector<uint64_t> dims = {3, 2};
  uint64_t offset = 0, second_offset = 32;
  std::string second = "beta";
  uint64_t second_extent = 8;
  std::optional<uint64_t> third_offset;
  size_t data_bytes = 64;

  std::string bytes() const {
    std::string out = magic;
    append_number(out, version);
    append_number(out, n_tensors);
    append_number(out, n_metadata);
    append_number(out, key_length);
    out += key;
    append_number(out, key_type);
    append_number(out, uint32_t{7});
    put_string(out, other);
    append_number(out, uint32_t{9});
    append_number(out, element_type);
    append_number(out, array_count);
    append_number(out, string_length);
    out += "a";
    put_string(out, "bc");
    put_string(out, "general.alignment");
    append_number(out, alignment_type);
    append_number(out, alignment);
    put_string(out, "alpha");
    append_number(out, n_dims);
    for (uint64_t extent : dims) append_number(out, extent);
    append_number(out, ggml_type);
    append_number(out, offset);
    put_string(out, second);
    append_number(out, uint32_t{1});
    append_number(out, second_extent);
    append_number(out, uint32_t{0});
    append_number(out, second_offset);
    if (third_offset) {
      put_string(out, "gamma");
      append_number(out, uint32_t{0});  // a scalar
      append_number(out, uint32_t{0});
      append_number(out, *third_offset);
    }
    out.append((32 - out.size() % 32) % 32, '\0');
    return out + std::string(data_bytes, '\1');
  }
  static void put_string(std::string& out, std::string_view text) {
    append_number(out, static_cast<uint64_t>(text.size()));
    out += text;
  }
};

Result<Gguf> parse(const std::string& file) {
  return Gguf::from_bytes(as_bytes(file), "x.gguf");
}

TEST(Gguf, ReadsEveryTypeOfValue) {
  auto file = Gguf::open(golden("all.gguf"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(*file->get_string("general.architecture"), "llama");
  EXPECT_EQ(*file->get_u64("t.u8"), 200u);
  EXPECT_EQ(*file->get_i64("t.i8"), -100);
  EXPECT_EQ(*file->get_u64("t.u16"), 60000u);
  EXPECT_EQ(*file->get_i64("t.i16"), -30000);
  EXPECT_EQ(*file->get_u64("t.u32"), 4000000000u);
  EXPECT_EQ(*file->get_i64("t.i32"), -2000000000);
  EXPECT_EQ(*file->get_f64("t.f32"), 0.5);
  EXPECT_EQ(*file->get_bool("t.bool"), true);
  EXPECT_EQ(*file->get_string("t.string"), "größer");
  EXPECT_EQ(*file->get_u64("t.u64"), uint64_t{1} << 63);
  EXPECT_EQ(*file->get_i64("t.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(*file->get_f64("t.f64"), 1e300);
  EXPECT_EQ(*file->get_f64("t.u8"), 200.0) << "integers are numbers";
  EXPECT_EQ(*file->get_strings("t.strings"), (std::vector<std::string_view>{"a", "", "名前"}));
  EXPECT_EQ(*file->get_ints("t.i32s"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(*file->get_ints("t.bools"), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(*file->get_floats("t.f32s"), (std::vector<float>{0.5f, -1.5f}));
  EXPECT_EQ(*file->get_floats("t.i32s"), (std::vector<float>{1, -2, 3}));
  EXPECT_EQ(file->get_array("t.strings")->count, 3u);
}

TEST(Gguf, WrongTypesNameKeyAndBothTypes) {
  auto file = Gguf::open(golden("all.gguf"));
  ASSERT_TRUE(file.ok());
  expect_error(file->get_u64("t.i8"), Code::kCorrupt, {"all.gguf", "'t.i8'", "i8 -100", "from 0"});
  expect_error(file->get_i64("t.u64"), Code::kCorrupt, {"'t.u64'", "u64 9223372036854775808"});
  expect_error(file->get_i64("t.f32"), Code::kCorrupt, {"'t.f32'", "f32 0.5", "integer"});
  expect_error(file->get_bool("t.u8"), Code::kCorrupt, {"'t.u8'", "u8 200", "bool"});
  expect_error(file->get_f64("t.string"), Code::kCorrupt, {"'t.string'", "string 'größer'", "number"});
  expect_error(file->get_string("t.strings"), Code::kCorrupt, {"'t.strings'", "array of 3 string"});
  expect_error(file->get_strings("t.i32s"), Code::kCorrupt, {"'t.i32s'", "array of 3 i32", "array of strings"});
  expect_error(file->get_ints("t.f32s"), Code::kCorrupt, {"'t.f32s'"});
  expect_error(file->get_ints("t.strings"), Code::kCorrupt, {"'t.strings'"});
  expect_error(file->get_floats("t.bools"), Code::kCorrupt, {"'t.bools'"});
  expect_error(file->get_u64("t.none"), Code::kNotFound, {"all.gguf", "'t.none'", "absent"});
}

TEST(Gguf, OptionalValues) {
  auto file = Gguf::open(golden("all.gguf"));
  ASSERT_TRUE(file.ok());
  int64_t number = 5;
  double real = 6;
  bool flag = false;
  std::string text = "kept";
  ASSERT_TRUE(file->read("t.none", &number).ok() && file->read("t.none", &text).ok());
  EXPECT_EQ(number, 5);
  EXPECT_EQ(text, "kept");
  ASSERT_TRUE(file->read("t.u16", &number).ok() && file->read("t.f32", &real).ok());
  ASSERT_TRUE(file->read("t.bool", &flag).ok() && file->read("t.string", &text).ok());
  EXPECT_EQ(number, 60000);
  EXPECT_EQ(real, 0.5);
  EXPECT_TRUE(flag);
  EXPECT_EQ(text, "größer");
  expect_error(file->read("t.string", &number), Code::kCorrupt, {"'t.string'"});
}

TEST(Gguf, ReadsEveryTypeOfTensor) {
  auto file = Gguf::open(golden("all.gguf"));
  ASSERT_TRUE(file.ok());
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType dtype = static_cast<DType>(i);
    if (dtype == DType::kF8E4M3 || dtype == DType::kF8E8M0 || dtype == DType::kU8) continue;
    const TensorView* view = file->find(dtype_name(dtype));
    ASSERT_NE(view, nullptr) << dtype_name(dtype);
    EXPECT_EQ(view->dtype, dtype);
    EXPECT_EQ(view->size_bytes, dtype_bytes(dtype, view->elements()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 32, 0u);
  }
  const TensorView* floats = file->find("f32");
  EXPECT_EQ(floats->shape, (std::vector<int64_t>{2, 64}));
  for (int i = 0; i < 128; ++i) ASSERT_EQ(load_at<float>(floats->data, i), static_cast<float>(i - 64));
  EXPECT_EQ(file->find("i8")->shape, (std::vector<int64_t>{1, 2, 3})) << "outermost first";
  EXPECT_EQ(load_at<int64_t>(file->find("i64")->data, 5), 5);
  EXPECT_EQ(static_cast<int>(file->find("q6_k")->data[419]), 419 % 251) << "the last byte of a block";
}

TEST(Gguf, SplitFiles) {
  const TempFolder folder;
  std::vector<std::string> parts;
  for (int i = 1; i <= 3; ++i) {
    const std::string name = fmt::format("parts-{:05}-of-00003.gguf", i);
    parts.push_back(folder.file(name));
    std::filesystem::copy_file(golden(name), parts.back());
  }
  for (const std::string& path : parts) {
    auto file = Gguf::open(path);
    ASSERT_TRUE(file.ok()) << file.error().message;
    ASSERT_EQ(file->tensors().size(), 5u);
    EXPECT_EQ(*file->get_u64("t.u32"), 7u);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(file->tensors()[static_cast<size_t>(i)].name, fmt::format("t{}", i));
      EXPECT_EQ(load_at<float>(file->find(fmt::format("t{}", i))->data, 2), static_cast<float>(i));
    }
  }
  std::string miscounted = read_whole(parts[0]);
  const std::string_view key = "split.tensors.count";
  miscounted[miscounted.find(key) + key.size() + sizeof(uint32_t)] = 6;  // behind the key the type, then the count
  ASSERT_TRUE(write_file(parts[0], miscounted).ok());
  expect_error(Gguf::open(parts[1]), Code::kCorrupt, {"split.tensors.count is 6", "3 parts hold 5"});
  miscounted[miscounted.find(key) + key.size() + sizeof(uint32_t)] = 5;
  ASSERT_TRUE(write_file(parts[0], miscounted).ok());

  const std::string renamed = folder.file("renamed.gguf");
  std::filesystem::copy_file(parts[0], renamed);
  expect_error(Gguf::open(renamed), Code::kInvalidArgument, {"renamed.gguf", "3 parts", "-00001-of-00003.gguf"});
  std::filesystem::copy_file(parts[1], parts[2], std::filesystem::copy_options::overwrite_existing);
  expect_error(Gguf::open(parts[0]), Code::kCorrupt, {"parts-00003-of-00003.gguf", "split.no 1", "renamed?"});
  std::filesystem::remove(parts[1]);
  expect_error(Gguf::open(parts[0]), Code::kNotFound, {"part 2 is missing", "parts-00002-of-00003.gguf"});
}

TEST(Gguf, PartNames) {
  const auto name = gguf_part_name("dir/m-00002-of-00010.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->path_of(1), "dir/m-00001-of-00010.gguf");
  for (const char* other : {"m.gguf", "m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-0001-of-00003.gguf",
                            "-00001-of-00003.gguf", "m-00001_of-00003.gguf", "m-0000a-of-00003.gguf", ""})
    EXPECT_FALSE(gguf_part_name(other).has_value()) << other;
}

// One field of a good file made absurd, with the words that the message must have.
TEST(Gguf, DamagedFields) {
  constexpr uint64_t kHuge = ~uint64_t{0};
  struct Case {
    const char* what;
    std::function<void(Draft&)> damage;
    Code code;
    std::initializer_list<std::string_view> words;
  };
  const Case cases[] = {
      {"magic", [](Draft& d) { d.magic = "GGML"; }, Code::kCorrupt, {"'GGUF'"}},
      {"version 1", [](Draft& d) { d.version = 1; }, Code::kUnsupported, {"version 1"}},
      {"version 4", [](Draft& d) { d.version = 4; }, Code::kUnsupported, {"version 4"}},
      {"big-endian", [](Draft& d) { d.version = 0x03000000; }, Code::kUnsupported, {"big-endian"}},
      {"n_tensors", [=](Draft& d) { d.n_tensors = kHuge; }, Code::kCorrupt, {"tensors", "hold at most"}},
      {"n_tensors + 1", [](Draft& d) { d.n_tensors = 3; }, Code::kCorrupt, {"tensor"}},
      {"n_metadata", [=](Draft& d) { d.n_metadata = kHuge; }, Code::kCorrupt, {"metadata keys", "hold at most"}},
      {"key length", [=](Draft& d) { d.key_length = kHuge; }, Code::kCorrupt, {"metadata key 1 of 3"}},
      {"key empty", [](Draft& d) { d.key_length = 0, d.key = ""; }, Code::kCorrupt, {"empty"}},
      {"key type", [](Draft& d) { d.key_type = 13; }, Code::kCorrupt, {"'test.width'", "type 13"}},
      {"key twice", [](Draft& d) { d.other = "test.width"; }, Code::kCorrupt, {"'test.width'", "twice"}},
      {"element type", [](Draft& d) { d.element_type = 99; }, Code::kCorrupt, {"'test.names'", "type 99"}},
      {"array of numbers",
       [](Draft& d) { d.element_type = 0, d.array_count = 1 << 20; },
       Code::kCorrupt,
       {"'test.names'", "1048576 u8"}},
      {"array count", [=](Draft& d) { d.array_count = kHuge; }, Code::kCorrupt, {"'test.names'", "string"}},
      {"array count - 1", [](Draft& d) { d.array_count = 30; }, Code::kCorrupt, {"x.gguf"}},
      {"string length", [=](Draft& d) { d.string_length = kHuge; }, Code::kCorrupt, {"'test.names'"}},
      {"alignment 0", [](Draft& d) { d.alignment = 0; }, Code::kCorrupt, {"'general.alignment'", "u32 0"}},
      {"alignment 48", [](Draft& d) { d.alignment = 48; }, Code::kCorrupt, {"'general.alignment'", "u32 48"}},
      {"alignment f32", [](Draft& d) { d.alignment_type = 6; }, Code::kCorrupt, {"'general.alignment'", "f32"}},
      {"alignment 64", [](Draft& d) { d.alignment = 64; }, Code::kCorrupt, {"'beta'", "multiple of the alignment 64"}},
      {"alignment huge", [](Draft& d) { d.alignment = 1u << 31; }, Code::kCorrupt, {"'alpha'"}},
      {"n_dims", [](Draft& d) { d.n_dims = 5; }, Code::kCorrupt, {"'alpha'", "5 dimensions"}},
      {"n_dims huge", [](Draft& d) { d.n_dims = ~0u; }, Code::kCorrupt, {"'alpha'", "dimensions"}},
      {"extent",
       [](Draft& d) {
         d.dims = {uint64_t{1} << 40, 2};
       },
       Code::kCorrupt,
       {"'alpha'", "bytes of data"}},
      {"extent negative",
       [=](Draft& d) {
         d.dims = {kHuge, 2};
       },
       Code::kCorrupt,
       {"'alpha'", "[2, -1]"}},
      {"extents overflow",
       [](Draft& d) {
         d.dims = {uint64_t{1} << 40, uint64_t{1} << 40};
       },
       Code::kCorrupt,
       {"'alpha'", "2^63"}},
      {"no whole block",
       [](Draft& d) { d.ggml_type = 2; },
       Code::kCorrupt,
       {"'alpha'", "[2, 3] of q4_0", "multiple of 32"}},
      {"no whole superblock",
       [](Draft& d) {
         d.ggml_type = 12, d.dims = {32, 8};
       },
       Code::kCorrupt,
       {"'alpha'", "multiple of 256"}},
      {"known type", [](Draft& d) { d.ggml_type = 16; }, Code::kUnsupported, {"'alpha'", "16 (IQ2_XXS)", "Q4_K"}},
      {"removed type", [](Draft& d) { d.ggml_type = 4; }, Code::kCorrupt, {"'alpha'", "type 4"}},
      {"unknown type", [](Draft& d) { d.ggml_type = 4000; }, Code::kCorrupt, {"'alpha'", "type 4000"}},
      {"offset misaligned", [](Draft& d) { d.second_offset = 33; }, Code::kCorrupt, {"'beta'", "33", "alignment 32"}},
      {"offset out of range", [](Draft& d) { d.second_offset = 64; }, Code::kCorrupt, {"'beta'", "offset 64"}},
      {"offset huge", [](Draft& d) { d.second_offset = kHuge & ~31ull; }, Code::kCorrupt, {"'beta'"}},
      {"overlap", [](Draft& d) { d.second_offset = 0; }, Code::kCorrupt, {"'beta'", "inside 'alpha'"}},
      {"overlap the other way", [](Draft& d) { d.offset = 32; }, Code::kCorrupt, {"'beta'", "inside 'alpha'"}},
      {"overlap of a long one",
       [](Draft& d) {
         d.dims = {4, 3};
       },
       Code::kCorrupt,
       {"'beta'", "inside 'alpha'"}},
      {"name twice", [](Draft& d) { d.second = "alpha"; }, Code::kCorrupt, {"'alpha'", "twice"}},
      {"data missing", [](Draft& d) { d.data_bytes = 63; }, Code::kCorrupt, {"'beta'", "63 bytes of data"}},
  };
  ASSERT_TRUE(parse(Draft().bytes()).ok()) << parse(Draft().bytes()).error().message;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    Draft draft;
    c.damage(draft);
    expect_error(parse(draft.bytes()), c.code, c.words);
  }
}

// An empty tensor between two that overlap must not hide them from one another.
TEST(Gguf, OverlapAcrossAnEmptyTensor) {
  Draft draft;
  draft.dims = {16, 2};
  draft.second_extent = 0;
  draft.n_tensors = 3;
  draft.third_offset = 64;
  draft.data_bytes = 160;
  expect_error(parse(draft.bytes()), Code::kCorrupt, {"'gamma'", "inside 'alpha'", "128"});
  draft.third_offset = 128;
  EXPECT_TRUE(parse(draft.bytes()).ok());
}

TEST(Gguf, ToleratedFields) {
  Draft version_2, scalar, empty, hole;
  version_2.version = 2;
  EXPECT_TRUE(parse(version_2.bytes()).ok());
  scalar.n_dims = 0, scalar.dims = {};
  EXPECT_TRUE(parse(scalar.bytes()).ok());
  empty.dims = {0, 2};
  EXPECT_TRUE(parse(empty.bytes()).ok());
  hole.second_offset = 64, hole.data_bytes = 200;
  EXPECT_TRUE(parse(hole.bytes()).ok()) << "holes and trailing bytes";
}

TEST(Gguf, DeepArraysAreRefused) {
  for (int depth : {3, 5, 100'000}) {
    std::string file = "GGUF";
    append_number(file, uint32_t{3});
    append_number(file, uint64_t{0});
    append_number(file, uint64_t{1});
    Draft::put_string(file, "deep");
    append_number(file, uint32_t{9});
    for (int i = 0; i < depth; ++i) {
      append_number(file, uint32_t{9});
      append_number(file, uint64_t{1});
    }
    append_number(file, uint32_t{0});
    append_number(file, uint64_t{0});
    auto parsed = parse(file);
    EXPECT_EQ(parsed.ok(), depth == 3);
    if (!parsed.ok()) expect_error(parsed, Code::kUnsupported, {"'deep'", "deeper"});
  }
}

TEST(Gguf, EveryTruncationIsAnError) {
  const std::string draft = Draft().bytes(), all = read_whole(golden("all.gguf"));
  for (const std::string& whole : {draft, all}) {
    for (size_t n = 0; n < whole.size(); ++n) {
      const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n));
      auto file = Gguf::from_bytes(std::as_bytes(std::span(exact)), "cut.gguf");
      if (file.ok()) {  // only padding behind the last tensor may be gone
        ASSERT_GT(n + 32, whole.size());
        continue;
      }
      EXPECT_EQ(file.error().code, Code::kCorrupt) << n;
      EXPECT_NE(file.error().message.find("cut.gguf"), std::string::npos);
    }
  }
}

TEST(Gguf, EveryChangedByteIsAnErrorOrAFile) {
  const std::string whole = Draft().bytes();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[i] = static_cast<char>(value);
      auto file = parse(changed);
      if (!file.ok()) {
        EXPECT_NE(file.error().message.find("x.gguf"), std::string::npos);
        continue;
      }
      for (const NamedTensor& tensor : file->tensors()) {
        const std::byte* end = as_bytes(changed).data() + changed.size();
        EXPECT_TRUE(tensor.view.data + tensor.view.size_bytes <= end) << i << " " << value;
      }
    }
  }
}

}  // namespace
}  // namespace westlake
