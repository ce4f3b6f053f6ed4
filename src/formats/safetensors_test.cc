// Safetensors: files of the public package, damaged files, round trips, shards.
#include "formats/safetensors.h"

#include <unistd.h>

#include <set>

#include "formats/safetensors_writer.h"
#include "formats/test_support.h"

namespace westlake {
namespace {

std::string with_header(const std::string& json, const std::string& data) {
  std::string out;
  append_number(out, static_cast<uint64_t>(json.size()));
  return out + json + data;
}

Result<Safetensors> parse(const std::string& file) {
  return Safetensors::from_bytes(as_bytes(file), "a.safetensors");
}

TEST(Safetensors, ReadsWhatThePackageWrites) {
  auto file = Safetensors::open(golden("all.safetensors"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata(), (SafetensorsMetadata{{"format", "pt"}, {"note", "größer"}}));
  struct Case {
    const char* name;
    DType dtype;
    int first_byte;
  };
  const Case cases[] = {{"f32", DType::kF32, 0},         {"f16", DType::kF16, 10},        {"bf16", DType::kBF16, 20},
                        {"f8_e4m3", DType::kF8E4M3, 30}, {"f8_e8m0", DType::kF8E8M0, 40}, {"i8", DType::kI8, 50},
                        {"i32", DType::kI32, 60},        {"i64", DType::kI64, 70},        {"u8", DType::kU8, 80},
                        {"bool", DType::kU8, 90}};
  for (const Case& c : cases) {
    const TensorView* view = file->find(c.name);
    ASSERT_NE(view, nullptr) << c.name;
    EXPECT_EQ(view->dtype, c.dtype) << c.name;
    EXPECT_EQ(view->shape, (std::vector<int64_t>{2, 3})) << c.name;
    ASSERT_EQ(view->size_bytes, 6 * dtype_info(c.dtype).block_bytes) << c.name;
    for (int64_t i = 0; i < view->size_bytes; ++i)
      ASSERT_EQ(static_cast<int>(view->data[i]), (c.first_byte + i) % 251) << c.name << " byte " << i;
  }
  EXPECT_EQ(load_at<float>(file->find("scalar")->data, 0), 1.5f);
  EXPECT_TRUE(file->find("scalar")->shape.empty());
  EXPECT_EQ(file->find("empty")->shape, (std::vector<int64_t>{0, 7}));
  EXPECT_NE(file->find("名前 \"quoted\"\n"), nullptr);
  EXPECT_EQ(file->find("F32"), nullptr);
  for (size_t i = 1; i < file->tensors().size(); ++i)
    EXPECT_LE(file->tensors()[i - 1].view.data, file->tensors()[i].view.data) << "file order";
}

TEST(Safetensors, ViewsSurviveAMove) {
  auto file = Safetensors::open(golden("all.safetensors"));
  ASSERT_TRUE(file.ok());
  const std::byte* data = file->find("f32")->data;
  const Safetensors moved = std::move(*file);
  EXPECT_EQ(moved.find("f32")->data, data);
  EXPECT_EQ(static_cast<int>(moved.find("f32")->data[5]), 5);
}

TEST(Safetensors, UnsupportedDTypeIsNamed) {
  expect_error(Safetensors::open(golden("f64.safetensors")), Code::kUnsupported, {"'wide'", "'F64'", "BF16"});
  expect_error(Safetensors::open(golden("none.safetensors")), Code::kNotFound, {"none.safetensors"});
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string whole = read_whole(golden("all.safetensors"));
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n));
    auto file = Safetensors::from_bytes(std::as_bytes(std::span(exact)), "cut.safetensors");
    ASSERT_FALSE(file.ok()) << n << " of " << whole.size() << " bytes";
    EXPECT_EQ(file.error().code, Code::kCorrupt);
    EXPECT_NE(file.error().message.find("cut.safetensors"), std::string::npos);
  }
  EXPECT_FALSE(parse(whole + '\0').ok()) << "trailing bytes";
}

TEST(Safetensors, EveryChangedByteIsAnErrorOrAFile) {
  const std::string whole = read_whole(golden("all.safetensors"));
  for (size_t i = 0; i < whole.size(); ++i) {
    for (char value : {'\0', '\xff', '9', '"', '}', '-'}) {
      std::string changed = whole;
      changed[i] = value;
      auto file = parse(changed);
      if (!file.ok()) {
        EXPECT_NE(file.error().message.find("a.safetensors"), std::string::npos);
      } else {
        for (const NamedTensor& tensor : file->tensors()) EXPECT_LE(tensor.view.size_bytes, 1024);
      }
    }
  }
}

// Headers that contradict themselves or their file, each with the words that its message must have.
TEST(Safetensors, DamagedHeaders) {
  struct Case {
    const char* json;
    size_t data_bytes;
    Code code;
    std::initializer_list<std::string_view> words;
  };
  const Case cases[] = {
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, Code::kCorrupt, {"'w'", "[0, 8]", "7"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9, Code::kCorrupt, {"'w'", "9 bytes", "byte 8"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
       8,
       Code::kCorrupt,
       {"'w'", "[8, 0]", "begin <= end"}},
      {R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "[3]", "needs 12"}},
      {R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "shape"}},
      {R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "[1.5]"}},
      {R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
       0,
       Code::kCorrupt,
       {"'w'", "overflows"}},
      {R"({"w":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8]}})",
       8,
       Code::kCorrupt,
       {"'w'", "overflows"}},
      {R"({"w":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,18446744073709551615]}})", 8, Code::kCorrupt, {"'w'"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[-8,0]}})", 8, Code::kCorrupt, {"'w'", "data_offsets"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8,8]}})", 8, Code::kCorrupt, {"'w'", "data_offsets"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":8}})", 8, Code::kCorrupt, {"'w'", "data_offsets"}},
      {R"({"w":{"dtype":"U8","shape":8,"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "shape"}},
      {R"({"w":{"dtype":7,"shape":[8],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "dtype"}},
      {R"({"w":{"dtype":"F6_E2M3","shape":[8],"data_offsets":[0,6]}})", 6, Code::kUnsupported, {"'w'", "'F6_E2M3'"}},
      {R"({"w":{"shape":[8],"data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "0 x dtype"}},
      {R"({"w":{"dtype":"U8","data_offsets":[0,8]}})", 8, Code::kCorrupt, {"'w'", "0 x shape"}},
      {R"({"w":{"dtype":"U8","shape":[8]}})", 8, Code::kCorrupt, {"'w'", "0 x data_offsets"}},
      {R"({"w":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}})",
       8,
       Code::kCorrupt,
       {"'w'", "2 x dtype"}},
      {R"({"w":[1]})", 0, Code::kCorrupt, {"'w'", "[1]", "object"}},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6,
       Code::kCorrupt,
       {"'b'", "'a'", "overlap"}},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4,
       Code::kCorrupt,
       {"'b'", "'a'", "overlap"}},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
       10,
       Code::kCorrupt,
       {"'b'", "'a'", "hole"}},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6, Code::kCorrupt, {"'a'", "hole"}},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
       4,
       Code::kCorrupt,
       {"'a'", "twice"}},
      {R"({"__metadata__":{"format":7}})", 0, Code::kCorrupt, {"'format'", "7"}},
      {R"({"__metadata__":"pt"})", 0, Code::kCorrupt, {"__metadata__", "pt"}},
      {R"({"w":)", 0, Code::kCorrupt, {"header", "JSON"}},
      {R"([1,2])", 0, Code::kCorrupt, {"'{'"}},
      {"", 0, Code::kCorrupt, {"'{'"}},
      {"  {}", 0, Code::kCorrupt, {"'{'"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.json);
    expect_error(parse(with_header(c.json, std::string(c.data_bytes, '\1'))), c.code, c.words);
  }
  EXPECT_TRUE(parse(with_header("{}  ", "")).ok()) << "no tensors, padded with spaces";
}

TEST(Safetensors, AbsurdHeaderLengths) {
  for (uint64_t length : {uint64_t{3}, uint64_t{99'999'999}, uint64_t{100'000'001}, uint64_t{1} << 62, ~uint64_t{0}}) {
    std::string file;
    append_number(file, length);
    expect_error(parse(file + "{}"), Code::kCorrupt, {"a.safetensors", fmt::format("{}", length)});
  }
  expect_error(parse("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), Code::kCorrupt, {"git lfs pull"});
}

TEST(Safetensors, LongAndWildNamesStayReadable) {
  const std::string name(100'000, 'x');
  auto file =
      parse(with_header(R"({"\u001b[31m)" + name + R"(":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", ""));
  ASSERT_FALSE(file.ok());
  EXPECT_LT(file.error().message.size(), 500u);
  EXPECT_EQ(file.error().message.find('\x1b'), std::string::npos);
}

std::vector<TensorSpec> some_tensors() {
  return {{"small", DType::kU8, {3}},  {"fp8", DType::kF8E4M3, {2, 5}},  {"scale", DType::kF32, {1, 1}},
          {"half", DType::kBF16, {7}}, {"nothing", DType::kF32, {0, 4}}, {"scalar", DType::kI64, {}}};
}

// Each tensor is filled with bytes that depend on its name and their place.
std::byte byte_of(const std::string& name, int64_t i) {
  return static_cast<std::byte>(name[0] + 3 * i);
}

void write_all(SafetensorsWriter& writer) {
  for (const TensorSpec& spec : writer.tensors()) {
    const int64_t bytes = *tensor_bytes(spec.dtype, spec.shape);
    std::vector<std::byte> data(static_cast<size_t>(bytes));
    for (int64_t i = 0; i < bytes; ++i) data[static_cast<size_t>(i)] = byte_of(spec.name, i);
    for (std::byte& one : data) ASSERT_TRUE(writer.write({&one, 1}).ok());
  }
  const auto finished = writer.finish();
  ASSERT_TRUE(finished.ok()) << finished.error().message;
}

template <typename Reader>
void expect_some_tensors(const Reader& file) {
  EXPECT_EQ(file.tensors().size(), some_tensors().size());
  for (const TensorSpec& spec : some_tensors()) {
    const TensorView* view = file.find(spec.name);
    ASSERT_NE(view, nullptr) << spec.name;
    EXPECT_EQ(view->dtype, spec.dtype) << spec.name;
    EXPECT_EQ(view->shape, spec.shape) << spec.name;
    for (int64_t i = 0; i < view->size_bytes; ++i) EXPECT_EQ(view->data[i], byte_of(spec.name, i)) << spec.name;
  }
}

TEST(SafetensorsWriter, OneFile) {
  const TempFolder folder;
  auto writer = SafetensorsWriter::create_file(folder.file("x.safetensors"), some_tensors());
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  EXPECT_FALSE(is_file(folder.file("x.safetensors"))) << "visible before it is whole";
  write_all(*writer);
  auto file = Safetensors::open(folder.file("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  expect_some_tensors(*file);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  for (const NamedTensor& tensor : file->tensors()) {
    EXPECT_EQ(
        reinterpret_cast<uintptr_t>(tensor.view.data) % static_cast<size_t>(dtype_info(tensor.view.dtype).block_bytes),
        0u)
        << tensor.name << " is misaligned";
  }
}

TEST(SafetensorsWriter, FolderInOneOrInShards) {
  const TempFolder folder;
  for (uint64_t limit : {uint64_t{1} << 40, uint64_t{16}, uint64_t{1}}) {  // one form replaces the other
    auto writer = SafetensorsWriter::create_folder(folder.path(), some_tensors(), {.shard_limit_bytes = limit});
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    write_all(*writer);
    EXPECT_EQ(is_file(folder.file("model.safetensors")), limit > 16);
    EXPECT_EQ(is_file(folder.file("model.safetensors.index.json")), limit <= 16);
    auto set = SafetensorsSet::open(folder.path());
    ASSERT_TRUE(set.ok()) << set.error().message;
    expect_some_tensors(*set);
  }
  auto writer = SafetensorsWriter::create_folder(folder.path(), some_tensors());
  ASSERT_TRUE(writer.ok());
  write_all(*writer);
  EXPECT_FALSE(is_file(folder.file("model.safetensors.index.json")));
}

TEST(SafetensorsWriter, Refusals) {
  const TempFolder folder;
  const std::string path = folder.file("x.safetensors");
  expect_error(SafetensorsWriter::create_file(path, {{"q", DType::kQ4_0, {32}}}), Code::kUnsupported, {"'q'", "q4_0"});
  expect_error(SafetensorsWriter::create_file(path, {{"q", DType::kU8, {1}}, {"q", DType::kU8, {1}}}),
               Code::kInvalidArgument, {"'q'", "twice", path});
  expect_error(SafetensorsWriter::create_file(folder.file("no/x"), {}), Code::kIo, {"no/x"});
}

TEST(SafetensorsWriter, AnUnfinishedWriterLeavesTheOldFile) {
  const TempFolder folder;
  const std::string path = folder.file("x.safetensors");
  ASSERT_TRUE(write_file(path, "old").ok());
  {
    auto writer = SafetensorsWriter::create_file(path, some_tensors());
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write(as_bytes("12345")).ok());
  }
  EXPECT_EQ(read_whole(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a temporary file stayed";
}

TEST(SafetensorsWriter, FullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempFolder folder;
  const std::string path = folder.file("x.safetensors");
  ASSERT_TRUE(write_file(path, "old").ok());
  // The temporary file of AtomicFile is a link to a disk that is always full.
  std::filesystem::create_symlink("/dev/full", fmt::format("{}.{}.tmp", path, getpid()));
  auto writer = SafetensorsWriter::create_file(path, {{"big", DType::kU8, {3 << 20}}});
  ASSERT_TRUE(writer.ok());
  const std::string piece(3 << 20, 'x');
  Status written = writer->write(as_bytes(piece));
  expect_error(written, Code::kIo, {path, "space"});
  EXPECT_EQ(read_whole(path), "old");
}

TEST(SafetensorsSet, ReadsShards) {
  for (const std::string& path : {golden("sharded"), golden("sharded") + "/"}) {
    auto set = SafetensorsSet::open(path);
    ASSERT_TRUE(set.ok()) << set.error().message;
    ASSERT_EQ(set->tensors().size(), 3u);
    for (const char* name : {"a.weight", "b.weight", "c.weight"})
      EXPECT_EQ(load_at<float>(set->find(name)->data, 0), static_cast<float>(name[0]));
    EXPECT_EQ(set->metadata().at("format"), "pt");
    EXPECT_GT(set->file_bytes(), 12);
  }
  EXPECT_TRUE(SafetensorsSet::open(golden("all.safetensors")).ok()) << "one file is a set of one";
}

void copy_shards(const TempFolder& folder) {
  std::filesystem::copy(golden("sharded"), folder.path(),
                        std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
}

TEST(SafetensorsSet, WhatIsMissingIsNamed) {
  const TempFolder folder;
  const std::string index_path = folder.file("model.safetensors.index.json");
  expect_error(SafetensorsSet::open(folder.path()), Code::kNotFound, {"model.safetensors.index.json"});
  ASSERT_TRUE(write_file(folder.file("pytorch_model.bin"), "x").ok());
  expect_error(SafetensorsSet::open(folder.path()), Code::kNotFound, {"pickled"});
  expect_error(SafetensorsSet::open(folder.file("nowhere")), Code::kNotFound, {"nowhere"});

  copy_shards(folder);
  std::filesystem::remove(folder.file("model-00002-of-00002.safetensors"));
  expect_error(SafetensorsSet::open(folder.path()), Code::kNotFound, {"'model-00002-of-00002.safetensors'"});

  copy_shards(folder);
  ASSERT_TRUE(write_file(index_path, R"({"weight_map":{"d.weight":"model-00001-of-00002.safetensors"}})").ok());
  expect_error(SafetensorsSet::open(folder.path()), Code::kCorrupt, {"'d.weight'", "model-00001-of-00002.safetensors"});

  copy_shards(folder);
  std::filesystem::resize_file(folder.file("model-00002-of-00002.safetensors"), 40);
  expect_error(SafetensorsSet::open(folder.path()), Code::kCorrupt,
               {"model-00002-of-00002.safetensors", "interrupted"});
}

TEST(SafetensorsSet, AnIndexCannotLeaveItsFolder) {
  const TempFolder folder;
  for (const char* shard : {"../x.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b"}) {
    ASSERT_TRUE(
        write_file(folder.file("model.safetensors.index.json"), fmt::format(R"({{"weight_map":{{"w":"{}"}}}})", shard))
            .ok());
    SCOPED_TRACE(shard);
    expect_error(SafetensorsSet::open(folder.path()), Code::kCorrupt, {"'w'", "plain file name"});
  }
  struct Case {
    const char* json;
    const char* word;
  };
  for (const Case& c : {Case{"[]", "weight_map"}, Case{"{}", "weight_map"}, Case{R"({"weight_map":{"w":7}})", "'w'"},
                        Case{R"({"weight_map":{"w":"a","w":"b"}})", "twice"}, Case{"{", "JSON"}}) {
    SCOPED_TRACE(c.json);
    ASSERT_TRUE(write_file(folder.file("model.safetensors.index.json"), c.json).ok());
    expect_error(SafetensorsSet::open(folder.path()), Code::kCorrupt, {c.word});
  }
}

}  // namespace
}  // namespace westlake
