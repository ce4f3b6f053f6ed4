// What convert writes is read back: every reference checkpoint as GGUF, as a folder again, and as GGUF from GGUF, gives
// the reference's logits.
#include "model/gguf_export.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "base/file.h"
#include "model/hf_export.h"
#include "model/model.h"
#include "model/reference_case.h"
#include "model/synth.h"
#include "model/text_bundle.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

const std::string kCases = WESTLAKE_SOURCE_DIR "/tests/golden/models";

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kCases)) {
    if (is_model_case(entry.path().string())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void write_text(const std::string& path, std::string_view text) {
  ASSERT_TRUE(write_file(path, text).ok());
}

void write_file_at(const std::string& path, size_t offset, float value) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
  ASSERT_TRUE(file.good());
}

class ExportTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fmt::format("{}/export_test.{}.{}", fs::temp_directory_path().string(), getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directory(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string at(const std::string& name) const { return folder_ + "/" + name; }

  std::string to_gguf(const std::string& in, const std::string& name, DType quant, bool mtp = true) {
    auto checkpoint = Checkpoint::open(in);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    GgufExportOptions options;
    options.quant = quant;
    options.mtp = mtp;
    auto report = export_gguf(pool_, *checkpoint, at(name), options);
    EXPECT_TRUE(report.ok()) << in << ": " << report.error().message;
    return at(name);
  }
  std::string to_folder(const std::string& in, const std::string& name, const FolderExportOptions& options) {
    auto checkpoint = Checkpoint::open(in);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    auto report = export_folder(pool_, *checkpoint, at(name), options);
    EXPECT_TRUE(report.ok()) << in << ": " << report.error().message;
    return at(name);
  }
  void expect_case(const std::string& name, const std::string& model) {
    Context ctx{*available_kernels().front(), pool_, /*exact=*/true};
    auto report = run_model_case(ctx, kCases + "/" + name, model);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->passed()) << model << " as " << name << ": "
                                  << fmt::format("{}", fmt::join(report->failures, "; "));
  }

  void expect_failure(const std::string& in, const std::string& name, DType quant, Code code, std::string_view words) {
    const Checkpoint checkpoint = Checkpoint::open(in).value();
    GgufExportOptions options;
    options.quant = quant;
    const auto report = export_gguf(pool_, checkpoint, at(name), options);
    ASSERT_FALSE(report.ok()) << words;
    EXPECT_EQ(report.error().code, code) << report.error().message;
    EXPECT_NE(report.error().message.find(words), std::string::npos) << report.error().message;
  }
  // No temporary files beside these.
  void expect_only(std::set<std::string> names) {
    std::set<std::string> seen;
    for (const auto& entry : fs::directory_iterator(folder_)) seen.insert(entry.path().filename().string());
    EXPECT_EQ(seen, names);
  }
  std::vector<float> logits_of(const std::string& path) {
    const Checkpoint checkpoint = Checkpoint::open(path).value();
    const Model model = Model::bind(checkpoint).value();
    const std::vector<int32_t> tokens = {5, 77, 200, 31, 4, 123};
    const CacheShape shape = model.cache_shape(64);
    std::vector<float> page(shape.page_floats()), logits(tokens.size() * model.config().vocab_size);
    float* pages[] = {page.data()};
    Segment segment;
    segment.tokens = tokens;
    segment.pages = pages;
    Context ctx{*available_kernels().front(), pool_, /*exact=*/true};
    model.forward(ctx, {&segment, 1}, 64, logits.data());
    return logits;
  }

  ThreadPool pool_{3};
  std::string folder_;
};

TEST_F(ExportTest, EveryCaseThroughGgufAndBack) {
  FolderExportOptions f32;
  f32.dtype = DType::kF32;
  for (const std::string& name : case_names()) {
    const std::string first = to_gguf(kCases + "/" + name, name + ".gguf", DType::kF32);
    expect_case(name, first);
    const std::string again = to_gguf(first, name + "-2.gguf", DType::kF32);
    expect_case(name, again);
    EXPECT_EQ(fs::file_size(first), fs::file_size(again)) << name;
    expect_case(name, to_folder(first, name, f32));
    expect_case(name, to_folder(kCases + "/" + name, name + "-folder", f32));
  }
}

TEST_F(ExportTest, EveryFormatKeepsTheModel) {
  // Coarser formats move the logits further; none may lose the model.
  struct Bound {
    DType quant;
    double relative;
  };
  constexpr Bound kBounds[] = {{DType::kF16, 2e-3},  {DType::kBF16, 0.02}, {DType::kQ8_0, 0.05}, {DType::kQ6_K, 0.1},
                               {DType::kQ5_K, 0.15}, {DType::kQ4_K, 0.3},  {DType::kQ4_0, 0.4},  {DType::kQ4_1, 0.35},
                               {DType::kQ5_0, 0.2},  {DType::kQ5_1, 0.2}};
  for (std::string_view preset : {"tiny-llama", "tiny-qwen2", "tiny-qwen3-moe", "tiny-deepseek-v2"}) {
    const std::string first = at(fmt::format("{}.gguf", preset));
    SynthOptions options;
    options.quant = DType::kF32;
    const ModelConfig config = synth_config(preset).value();
    ASSERT_TRUE(write_synthetic_gguf(pool_, config, first, options).ok());
    const std::vector<float> expected = logits_of(first);
    for (const Bound& bound : kBounds) {
      const std::vector<float> seen = logits_of(to_gguf(first, "quantised.gguf", bound.quant));
      double difference = 0, norm = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        difference += (seen[i] - expected[i]) * (seen[i] - expected[i]);
        norm += expected[i] * expected[i];
      }
      // A little noise makes a random router choose otherwise, so models with experts drift twice as far.
      const double allowed = bound.relative * (config.n_routed_experts > 0 ? 2 : 1);
      EXPECT_LT(std::sqrt(difference / norm), allowed) << preset << " " << dtype_name(bound.quant);
    }
  }
}

TEST_F(ExportTest, WhichTensorsKeepMore) {
  SynthOptions options;
  options.quant = DType::kF32;
  const ModelConfig config = synth_config("tiny-deepseek-v3").value();
  ASSERT_TRUE(write_synthetic_gguf(pool_, config, at("a.gguf"), options).ok());
  const Gguf gguf = Gguf::open(to_gguf(at("a.gguf"), "b.gguf", DType::kQ4_K)).value();
  auto dtype = [&](const char* name) { return dtype_name(gguf.find(name)->dtype); };
  EXPECT_EQ(dtype("token_embd.weight"), "q4_k");
  EXPECT_EQ(dtype("output.weight"), "q6_k");
  EXPECT_EQ(dtype("output_norm.weight"), "f32");
  EXPECT_EQ(dtype("blk.0.attn_norm.weight"), "f32");
  EXPECT_EQ(dtype("blk.0.ffn_down.weight"), "q4_k");
  EXPECT_EQ(dtype("blk.1.ffn_gate_inp.weight"), "f32");
  EXPECT_EQ(dtype("blk.1.exp_probs_b.bias"), "f32");
  EXPECT_EQ(dtype("blk.1.ffn_up_exps.weight"), "q4_k");
  EXPECT_EQ(dtype("blk.1.attn_k_b.weight"), "q5_0");  // rows of 32: no whole blocks of 256
  EXPECT_EQ(gguf.find("blk.1.ffn_up_exps.weight")->shape, (std::vector<int64_t>{16, 256, 256}));
  EXPECT_EQ(gguf.find("blk.1.attn_k_b.weight")->shape, (std::vector<int64_t>{4, 256, 32}));
  EXPECT_EQ(gguf.find("blk.1.attn_v_b.weight")->shape, (std::vector<int64_t>{4, 64, 256}));
  EXPECT_EQ(gguf.get_i64("deepseek2.block_count").value(), 4);
  EXPECT_NE(gguf.find("blk.3.nextn.eh_proj.weight"), nullptr);
  const Gguf without = Gguf::open(to_gguf(at("a.gguf"), "c.gguf", DType::kF16, /*mtp=*/false)).value();
  EXPECT_EQ(without.get_i64("deepseek2.block_count").value(), 3);
  EXPECT_EQ(without.find("blk.3.nextn.eh_proj.weight"), nullptr);
  EXPECT_EQ(dtype_name(without.find("token_embd.weight")->dtype), "f16");
}

TEST_F(ExportTest, RowsOfRotaryPairsAreNeighbours) {
  // llama: row 2i of a head in GGUF is row i, row 2i + 1 is row i + dim / 2.
  const std::string source = kCases + "/llama_rope_tied";
  const Checkpoint folder = Checkpoint::open(source).value();
  const Checkpoint gguf = Checkpoint::open(to_gguf(source, "a.gguf", DType::kF32)).value();
  const TensorView& published = *folder.tensor_source().find("model.layers.1.self_attn.q_proj.weight");
  const TensorView& reordered = *gguf.gguf()->find("blk.1.attn_q.weight");
  const int64_t dim = folder.config().head_dim, cols = published.shape[1];
  std::vector<float> expected(cols), seen(cols);
  for (int64_t row = 0; row < published.shape[0]; ++row) {
    const int64_t head = row / dim, r = row % dim;
    const int64_t from = head * dim + (r % 2 == 0 ? r / 2 : r / 2 + dim / 2);
    dequantise_row(published.dtype, published.data + from * dtype_bytes(published.dtype, cols), cols, expected.data());
    dequantise_row(DType::kF32, reordered.data + row * cols * 4, cols, seen.data());
    ASSERT_EQ(seen, expected) << row;
  }
}

TEST_F(ExportTest, ShardsAndTheirIndex) {
  FolderExportOptions options;
  options.dtype = DType::kF32;
  options.shard_limit_bytes = 100'000;
  const std::string folder = to_folder(kCases + "/qwen3_moe", "sharded", options);
  EXPECT_TRUE(is_file(folder + "/model.safetensors.index.json"));
  EXPECT_FALSE(is_file(folder + "/model.safetensors"));
  expect_case("qwen3_moe", folder);
}

TEST_F(ExportTest, FolderKeepsWhatTheSourceSays) {
  // Without --quant a bf16 checkpoint stays bf16, byte for byte.
  const std::string source = kCases + "/qwen3";
  const std::string folder = to_folder(source, "same", {});
  const Checkpoint before = Checkpoint::open(source).value(), after = Checkpoint::open(folder).value();
  EXPECT_TRUE(before.config() == after.config());
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const NamedTensor& tensor : before.tensors()) {
    const TensorView* view = after.tensor_source().find(tensor.name);
    ASSERT_NE(view, nullptr) << tensor.name;
    EXPECT_EQ(view->dtype, tensor.view.dtype);
    ASSERT_EQ(view->size_bytes, tensor.view.size_bytes);
    EXPECT_EQ(std::memcmp(view->data, tensor.view.data, view->size_bytes), 0) << tensor.name;
  }
}

TEST_F(ExportTest, WeightsThatAreNoNumbersAreNamed) {
  fs::create_directory(at("bad"));
  fs::copy(kCases + "/llama_linear/config.json", at("bad/config.json"));
  fs::copy(kCases + "/llama_linear/model.safetensors", at("bad/model.safetensors"));
  fs::permissions(at("bad/model.safetensors"), fs::perms::owner_write, fs::perm_options::add);
  const Checkpoint good = Checkpoint::open(at("bad")).value();
  const TensorView& view = *good.tensor_source().find("model.layers.1.mlp.up_proj.weight");
  const MappedFile file = MappedFile::open(at("bad/model.safetensors")).value();
  // The view lies in another mapping of the same file: found by its bytes' distance from the first tensor's.
  ASSERT_EQ(view.dtype, DType::kF32);
  const std::string_view bytes(reinterpret_cast<const char*>(view.data), 64);
  const size_t offset = file.text().find(bytes);
  ASSERT_NE(offset, std::string_view::npos);
  write_file_at(at("bad/model.safetensors"), offset + 40, std::numeric_limits<float>::quiet_NaN());
  write_text(at("out.gguf"), "old");
  expect_failure(at("bad"), "out.gguf", DType::kQ8_0, Code::kCorrupt, "blk.1.ffn_up.weight");
  write_file_at(at("bad/model.safetensors"), offset + 40, 1e6f);
  expect_failure(at("bad"), "out.gguf", DType::kF16, Code::kCorrupt, "too large for f16");
  EXPECT_EQ(read_file(at("out.gguf")).value(), "old");
  to_gguf(at("bad"), "out.gguf", DType::kBF16);
  expect_only({"bad", "out.gguf"});
}

TEST_F(ExportTest, OldFileStaysUntilTheNewOneIsWhole) {
  write_text(at("out.gguf"), "old");
  const Checkpoint checkpoint = Checkpoint::open(kCases + "/qwen3").value();
  int pieces = 0;
  auto stop = [&](uint64_t, uint64_t) { return ++pieces < 5; };
  const auto report = export_gguf(pool_, checkpoint, at("out.gguf"), {}, stop);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, Code::kCancelled);
  EXPECT_EQ(read_file(at("out.gguf")).value(), "old");
  expect_only({"out.gguf"});

  const std::string folder = to_folder(kCases + "/qwen2", "model", {});
  pieces = 0;
  EXPECT_FALSE(export_folder(pool_, checkpoint, folder, {}, stop).ok());
  EXPECT_EQ(Checkpoint::open(folder).value().config().model_type, "qwen2");
  ASSERT_TRUE(export_folder(pool_, checkpoint, folder + "/", {}).ok());
  EXPECT_EQ(Checkpoint::open(folder).value().config().model_type, "qwen3");
  expect_only({"out.gguf", "model"});
}

TEST_F(ExportTest, TargetsThatWouldDestroySomething) {
  const std::string file = to_gguf(kCases + "/qwen3", "a.gguf", DType::kF32);
  expect_failure(file, "a.gguf", DType::kF16, Code::kInvalidArgument, "both the source and the target");
  fs::create_symlink(file, at("link.gguf"));
  expect_failure(file, "link.gguf", DType::kF16, Code::kInvalidArgument, "both the source and the target");
  expect_case("qwen3", file);

  const Checkpoint checkpoint = Checkpoint::open(file).value();
  auto refused = [&](const std::string& out, std::string_view words) {
    const auto report = export_folder(pool_, checkpoint, out, {});
    ASSERT_FALSE(report.ok()) << out;
    EXPECT_NE(report.error().message.find(words), std::string::npos) << report.error().message;
  };
  refused(folder_, "a.gguf");  // holds more than a model
  fs::create_directories(at("home"));
  write_text(at("home/letter.txt"), "dear");
  refused(at("home"), "without config.json");
  write_text(at("home/config.json"), "{}");
  fs::create_directory(at("home/photos"));
  refused(at("home"), "photos");
  refused(at("home/letter.txt"), "no folder");
  EXPECT_TRUE(is_file(at("home/letter.txt")));
  refused(at("nowhere/model"), "cannot create");
}

TEST_F(ExportTest, TokenizerThroughGgufAndBack) {
  // A model folder with a tokenizer of fewer tokens than the embedding has rows.
  for (const char* name : {"smollm", "deepseek_v3", "llama3", "qwen2"}) {
    const std::string tokenizer = fmt::format("{}/tests/golden/text/{}.tokenizer.json", WESTLAKE_SOURCE_DIR, name);
    const std::string folder = at(name);
    ModelConfig config = synth_config("tiny-llama").value();
    config.vocab_size = TextBundle::open(tokenizer).value().tokenizer.vocab_size() + 7;
    SynthOptions options;
    options.quant = DType::kF16;
    ASSERT_TRUE(write_synthetic_gguf(pool_, config, at("weights.gguf"), options).ok());
    FolderExportOptions bare;
    bare.tokenizer = false;
    to_folder(at("weights.gguf"), name, bare);
    EXPECT_FALSE(is_file(folder + "/tokenizer.json"));
    fs::copy(tokenizer, folder + "/tokenizer.json");
    write_text(folder + "/generation_config.json", "{}");  // the synthetic tokenizer's eos is not this one's
    write_text(folder + "/tokenizer_config.json", R"({"chat_template": "{{ messages[0]['content'] }}"})");

    const std::string gguf = to_gguf(folder, fmt::format("{}.gguf", name), DType::kF16);
    const std::string back = to_folder(gguf, fmt::format("{}-back", name), {});
    const TextBundle first = TextBundle::open(folder).value();
    for (const std::string& path : {gguf, back}) {
      const auto other = TextBundle::open(path);
      ASSERT_TRUE(other.ok()) << other.error().message;
      EXPECT_EQ(other->chat_template_source, first.chat_template_source);
      EXPECT_EQ(other->stop_ids, first.stop_ids) << path;
      for (std::string_view text : {"Hello, world! 12345", "  two\n\nlines\t", "naïve 北京 𝔘 don't", "<|im_end|>x"}) {
        EXPECT_EQ(other->tokenizer.encode(text), first.tokenizer.encode(text)) << path << ": " << text;
      }
    }
    EXPECT_EQ(Gguf::open(gguf).value().get_array("tokenizer.ggml.tokens").value().count,
              static_cast<uint64_t>(config.vocab_size));
  }
}

TEST_F(ExportTest, WithoutTokenizerTheFileSaysSo) {
  const std::string file = to_gguf(kCases + "/qwen3", "a.gguf", DType::kF16);
  EXPECT_EQ(Gguf::open(file).value().get_string("tokenizer.ggml.model").value(), "none");
  const auto bundle = TextBundle::open(file);
  ASSERT_FALSE(bundle.ok());
  EXPECT_EQ(bundle.error().code, Code::kNotFound);
}

TEST(ExportDTypes, NamesOfFormats) {
  EXPECT_EQ(parse_export_dtype("q4_k").value(), DType::kQ4_K);
  EXPECT_EQ(parse_export_dtype("bf16").value(), DType::kBF16);
  for (const char* name : {"q3_k", "iq4_xs", "f8_e4m3", "i32", "Q4_K_M", ""}) {
    const auto dtype = parse_export_dtype(name);
    ASSERT_FALSE(dtype.ok()) << name;
    EXPECT_NE(dtype.error().message.find("q4_k"), std::string::npos);
  }
}

}  // namespace
}  // namespace westlake
