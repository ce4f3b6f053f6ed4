// What a file to be is made of: its tensors, each with the rows it takes from the source, and the stream that writes
// them. Both formats are made here: published folders and GGUF.
// Idea: source and target are two weight tables over the same Weights. A target tensor is its member's rows in another
// order (rotary pairs, the value half of kv_b_proj, experts one after another), or, where halves are transposed, a
// small matrix made on the spot. Rows are read, checked, converted and written some megabytes at a time, so that a
// model larger than memory passes through.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "formats/tensor_table.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weights.h"

namespace westlake {

// A checkpoint with every tensor found and checked; matrices stay mapped.
struct ExportSource {
  ModelConfig config;  // num_nextn_predict_layers as the file has them
  WeightFormat format = WeightFormat::kPublished;
  std::unique_ptr<Weights> weights;
  std::string place;

  static Result<ExportSource> open(const Checkpoint& checkpoint);
};

struct SourceRow {
  const Mat* mat = nullptr;
  int64_t row = 0;
};

struct ExportTensor {
  TensorSpec spec;  // name, dtype and shape in the file to be
  int64_t rows = 0, cols = 0;
  std::vector<Mat> sources;
  std::function<SourceRow(int64_t)> row;           // where row i lies. Thread-safe
  std::function<void(ThreadPool&, float*)> make;   // instead of `row`: all rows at once, [rows, cols]
  std::vector<std::span<const std::byte>> mapped;  // what may be released after the last row
};

// The dtype of a tensor in the file to be; `cols` is the length of its rows.
using ExportDType = std::function<DType(const WeightSpec&, int64_t cols)>;

// All tensors of the file to be, in its order. Requires: source outlives the result.
std::vector<ExportTensor> export_tensors(const ExportSource& source, WeightFormat target, bool mtp,
                                         const ExportDType& dtype);

// The tensors of a GGUF with experts stacked: the rows of weight_table(.., kGguf, ..) that `keep`, grouped by name.
// parts: the stacked experts in order, or one.
struct GgufTensor {
  TensorSpec spec;
  std::vector<const WeightSpec*> parts;
};
std::vector<GgufTensor> gguf_tensors(const std::vector<WeightSpec>& table,
                                     const std::function<bool(const WeightSpec&)>& keep, const ExportDType& dtype);

using ExportSink = std::function<Status(std::span<const std::byte>)>;

// Writes one tensor through `sink`, in pieces. Errors: kCorrupt for a weight that is NaN or infinite, or becomes so in
// a half-precision target; the tensor is named; those of the sink.
Status stream_tensor(ThreadPool& pool, const ExportTensor& tensor, std::string_view place, const ExportSink& sink);

// Row `row` as stream_tensor() writes it, [bytes of a row of the target]. Requires: tensor.row. False: no finite
// numbers.
bool convert_row(const ExportTensor& tensor, int64_t row, std::byte* out);

// Called after every piece with what is done and the whole; false stops the export with kCancelled.
using ExportProgress = std::function<bool(uint64_t done_bytes, uint64_t total_bytes)>;

// What was written.
struct ExportReport {
  int64_t tensors = 0;
  uint64_t bytes = 0;              // of tensor data
  std::vector<std::string> notes;  // what the user should know
};

}  // namespace westlake
