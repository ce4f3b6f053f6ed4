// GGUF, written: round trips, copies of metadata, refusals, a full disk.
#include "formats/gguf_writer.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "formats/gguf.h"
#include "formats/test_support.h"

namespace westlake {
namespace {

GgufMetadata some_metadata() {
  GgufMetadata metadata;
  metadata.set_string("general.architecture", "llama");
  metadata.set_u32("a.u32", 7);
  metadata.set_u64("a.u64", uint64_t{1} << 40);
  metadata.set_i32("a.i32", -7);
  metadata.set_f32("a.f32", 0.25f);
  metadata.set_bool("a.bool", true);
  metadata.set_strings("a.strings", std::vector<std::string>{"x", "", "größer"});
  metadata.set_i32s("a.i32s", std::vector<int32_t>{-1, 2});
  metadata.set_f32s("a.f32s", std::vector<float>{0.5f});
  return metadata;
}

std::vector<TensorSpec> some_tensors() {
  return {{"token_embd.weight", DType::kQ8_0, {3, 64}},
          {"norm", DType::kF32, {5}},
          {"nothing", DType::kF32, {0, 4}},
          {"experts", DType::kQ4_K, {2, 3, 256}},
          {"last", DType::kBF16, {1}}};
}

std::byte byte_of(const std::string& name, int64_t i) {
  return static_cast<std::byte>(name[0] + 3 * i);
}

TEST(GgufWriter, RoundTrip) {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  uint64_t done = 0, total = 0;
  auto writer = GgufWriter::create(path, some_metadata(), some_tensors(), [&](uint64_t d, uint64_t t) {
    EXPECT_GE(d, done);
    done = d, total = t;
  });
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  for (const TensorSpec& spec : writer->tensors()) {
    for (int64_t i = 0; i < *tensor_bytes(spec.dtype, spec.shape); ++i) {
      const std::byte one = byte_of(spec.name, i);
      ASSERT_TRUE(writer->write({&one, 1}).ok());
    }
  }
  EXPECT_FALSE(is_file(path)) << "visible before it is whole";
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(done, total);
  EXPECT_EQ(total, 3u * 2 * 34 + 20 + 6 * 144 + 2);

  auto file = Gguf::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->file_bytes() % 32, 0);
  ASSERT_EQ(file->tensors().size(), some_tensors().size());
  for (size_t k = 0; k < some_tensors().size(); ++k) {
    const TensorSpec spec = some_tensors()[k];
    const NamedTensor& tensor = file->tensors()[k];
    EXPECT_EQ(tensor.name, spec.name);
    EXPECT_EQ(tensor.view.shape, spec.shape);
    EXPECT_EQ(tensor.view.dtype, spec.dtype);
    for (int64_t i = 0; i < tensor.view.size_bytes; ++i) ASSERT_EQ(tensor.view.data[i], byte_of(spec.name, i));
  }
  EXPECT_EQ(*file->get_u64("a.u32"), 7u);
  EXPECT_EQ(*file->get_u64("a.u64"), uint64_t{1} << 40);
  EXPECT_EQ(*file->get_i64("a.i32"), -7);
  EXPECT_EQ(*file->get_f64("a.f32"), 0.25);
  EXPECT_TRUE(*file->get_bool("a.bool"));
  EXPECT_EQ((*file->get_strings("a.strings"))[2], "größer");
  EXPECT_EQ(*file->get_ints("a.i32s"), (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(*file->get_floats("a.f32s"), (std::vector<float>{0.5f}));
}

TEST(GgufWriter, CopiesTheMetadataOfAnotherFile) {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  auto source = Gguf::open(golden("parts-00001-of-00003.gguf"));
  auto everything = Gguf::open(golden("all.gguf"));
  ASSERT_TRUE(source.ok() && everything.ok());
  GgufMetadata metadata;
  metadata.set_u32("general.alignment", 64);
  for (const GgufEntry& entry : everything->metadata()) metadata.set_value(entry.key, entry.value);
  for (const GgufEntry& entry : source->metadata()) metadata.set_value(entry.key, entry.value);
  metadata.erase("t.u8");
  auto writer = GgufWriter::create(path, metadata, {});
  ASSERT_TRUE(writer.ok() && writer->finish().ok());
  auto copy = Gguf::open(path);
  ASSERT_TRUE(copy.ok()) << copy.error().message;
  EXPECT_FALSE(copy->has("split.count") || copy->has("general.alignment") || copy->has("t.u8"));
  EXPECT_EQ(*copy->get_u64("t.u32"), 7u) << "a later setting replaces";
  for (const GgufEntry& entry : everything->metadata()) {
    if (entry.key == "t.u8" || entry.key == "t.u32") continue;
    const GgufValue* value = copy->find_metadata(entry.key);
    ASSERT_NE(value, nullptr) << entry.key;
    EXPECT_EQ(value->type, entry.value.type);
    EXPECT_TRUE(std::ranges::equal(value->bytes, entry.value.bytes)) << entry.key;
  }
}

TEST(GgufWriter, Refusals) {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  expect_error(GgufWriter::create(path, {}, {{"w", DType::kF8E4M3, {1}}}), Code::kUnsupported,
               {path, "'w'", "f8_e4m3"});
  expect_error(GgufWriter::create(path, {}, {{"w", DType::kF32, {1}}, {"w", DType::kF32, {1}}}), Code::kInvalidArgument,
               {"'w'", "twice"});
  expect_error(GgufWriter::create(path, {}, {{"w", DType::kF32, {1, 1, 1, 1, 1}}}), Code::kInvalidArgument,
               {"'w'", "4"});
  expect_error(GgufWriter::create(path, {}, {{std::string(64, 'w'), DType::kF32, {1}}}), Code::kInvalidArgument,
               {"63"});
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufWriter, FullDiskLeavesTheOldFile) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  ASSERT_TRUE(write_file(path, "old").ok());
  // The temporary file of AtomicFile is a link to a disk that is always full.
  std::filesystem::create_symlink("/dev/full", fmt::format("{}.{}.tmp", path, getpid()));
  {
    auto writer = GgufWriter::create(path, {}, {{"big", DType::kI8, {3 << 20}}});
    ASSERT_TRUE(writer.ok());
    Status written = writer->write(as_bytes(std::string(3 << 20, 'x')));
    expect_error(written, Code::kIo, {path, "space"});
  }
  EXPECT_EQ(read_whole(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a temporary file stayed";
}

}  // namespace
}  // namespace westlake
