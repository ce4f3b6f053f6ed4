#include "model/quantised_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/progress.h"
#include "model/gguf_export.h"
#include "model/kept_folder.h"

namespace westlake {
namespace {

constexpr int64_t kPiece = int64_t{4} << 20;  // bytes that a thread hashes at a time
constexpr size_t kSamples = 16;               // rows that are made again at each start
constexpr const char* kSourceKey = "westlake.quantised_from";

// The type of most of its bytes, when any weights are blocks.
Status refuse_quantised(const Checkpoint& source, DType wanted) {
  std::map<DType, int64_t> bytes;
  for (const NamedTensor& tensor : source.tensors()) {
    if (is_quantised(tensor.view.dtype)) bytes[tensor.view.dtype] += tensor.view.size_bytes;
  }
  if (bytes.empty()) return {};
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  const DType most = std::max_element(bytes.begin(), bytes.end(), less)->first;
  return make_error(Code::kInvalidArgument,
                    "{}: is quantised already, to {}: rounding it again, to {}, would cost twice. Hint: leave --quant "
                    "out, or name the model it was made of",
                    source.path(), dtype_name(most), dtype_name(wanted));
}

class Copy {
 public:
  Copy(const Checkpoint& source, const QuantiseOptions& options, GgufPlan plan, ThreadPool& pool)
      : source_(source),
        options_(options),
        folder_(options.folder, source.files()),
        plan_(std::move(plan)),
        pool_(pool) {}

  Result<QuantisedCopy> open() {
    TRY(folder_.create());
    const uint64_t plan_hash = hash_plan();
    TRY_ASSIGN(const ContentHash hash, folder_.content_hash(files_identity(source_.files()) ^ plan_hash,
                                                            [&] { return hash_content(pieces(), plan_hash, pool_); }));
    key_ = hash.text();
    plan_.metadata.set_string(kSourceKey, key_);
    target_ = fmt::format("{}/{}-{}.gguf", folder_.path(), key_, dtype_name(options_.dtype));
    Result<Checkpoint> copy = open_checked();
    const bool made = !copy.ok();
    if (made) {
      TRY(folder_.make(
          target_, static_cast<int64_t>(plan_.bytes), [&] { return open_checked().ok(); },
          [&](int, const std::string& lock) { return write(lock); }));
      copy = open_checked();
    }
    if (!copy.ok()) return copy.error();
    folder_.mark_used(target_);
    QuantisedCopy result{std::move(*copy), made, {}};
    if (made) result.notes = plan_.notes;
    return result;
  }

 private:
  // Of all that the file says but its tensors' bytes; a model's name is no part of what it is.
  uint64_t hash_plan() const {
    std::string text;
    for (const GgufMetadata::Entry& entry : plan_.metadata.entries()) {
      if (entry.key != "general.name") text += fmt::format("{}={}{};", entry.key, entry.encoded.size(), entry.encoded);
    }
    for (const ExportTensor& tensor : plan_.tensors)
      text += fmt::format("{}:{}{};", tensor.spec.name, dtype_name(tensor.spec.dtype), shape_text(tensor.spec.shape));
    return hash_bytes(text.data(), text.size());
  }

  std::vector<Bytes> pieces() const {
    std::vector<Bytes> pieces;
    for (const NamedTensor& tensor : source_.tensors()) {
      const Bytes bytes(tensor.view.data, static_cast<size_t>(tensor.view.size_bytes));
      for (size_t at = 0; at < bytes.size(); at += kPiece)
        pieces.push_back(bytes.subspan(at, std::min<size_t>(kPiece, bytes.size() - at)));
    }
    return pieces;
  }

  Result<Checkpoint> open_checked() const {
    TRY_ASSIGN(Checkpoint copy, Checkpoint::open(target_));
    std::string key;
    TRY(copy.gguf()->read(kSourceKey, &key));
    if (key != key_) return make_error(Code::kCorrupt, "{}: was not made of this model", target_);
    if (copy.tensors().size() != plan_.tensors.size())
      return make_error(Code::kCorrupt, "{}: holds {} tensors, expected {}", target_, copy.tensors().size(),
                        plan_.tensors.size());
    for (const ExportTensor& tensor : plan_.tensors) {
      const TensorView* view = copy.gguf()->find(tensor.spec.name);
      if (view == nullptr || view->dtype != tensor.spec.dtype || view->shape != tensor.spec.shape)
        return make_error(Code::kCorrupt, "{}: tensor '{}' is not as planned", target_, tensor.spec.name);
    }
    TRY(compare_samples(copy));
    return copy;
  }

  Status compare_samples(const Checkpoint& copy) const {
    std::vector<std::byte> row;
    const size_t step = std::max<size_t>(1, plan_.tensors.size() / kSamples);
    for (size_t i = 0; i < plan_.tensors.size(); i += step) {
      const ExportTensor& tensor = plan_.tensors[i];
      if (!tensor.row) continue;
      row.resize(static_cast<size_t>(dtype_bytes(tensor.spec.dtype, tensor.cols)));
      const int64_t r = static_cast<int64_t>(i) % tensor.rows;
      const std::byte* kept = copy.gguf()->find(tensor.spec.name)->data + r * static_cast<int64_t>(row.size());
      if (!convert_row(tensor, r, row.data()) || std::memcmp(row.data(), kept, row.size()) != 0)
        return make_error(Code::kCorrupt, "{}: row {} of '{}' is not that of the model", target_, r, tensor.spec.name);
    }
    return {};
  }

  // The writer has a temporary file of its own, and puts the whole one under the target's name.
  Status write(const std::string& lock) const {
    Progress line(fmt::format("quantising to {} (once)", dtype_name(options_.dtype)), plan_.bytes, "bytes");
    TRY(write_gguf(pool_, plan_, target_, [&](uint64_t done, uint64_t) {
      line.update(done);
      return true;
    }));
    unlink(lock.c_str());
    return {};
  }

  const Checkpoint& source_;
  const QuantiseOptions& options_;
  const KeptFolder folder_;
  GgufPlan plan_;
  ThreadPool& pool_;
  std::string key_, target_;
};

}  // namespace

Result<QuantisedCopy> open_quantised_copy(const Checkpoint& source, const QuantiseOptions& options, ThreadPool& pool) {
  TRY(refuse_quantised(source, options.dtype));
  GgufExportOptions plan_options;
  plan_options.quant = options.dtype;
  plan_options.tokenizer = false;
  TRY_ASSIGN(GgufPlan plan, plan_gguf(source, plan_options));
  return Copy(source, options, std::move(plan), pool).open();
}

}  // namespace westlake
