#include "model/export_tensors.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "base/file.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

// Bytes of float32 that are in work at a time: large enough for threads to share, small beside any model.
constexpr int64_t kPieceBytes = 16 << 20;

// W_UK and W_UV of one layer in either form; empty where the file has the other.
const MlaParams& mla_of(const Weights& weights, int64_t layer) {
  const int64_t L = static_cast<int64_t>(weights.layers.size());
  return layer < L ? weights.layers[layer].mla : weights.mtp[layer - L].layer.mla;
}

struct HeadShape {
  int64_t heads, nope, v, lora;
};

// out [H, lora, nope] = the key rows of kv_b_proj [H * (nope + v), lora], each head transposed.
void make_key_up(ThreadPool& pool, const Mat& kv_b, const HeadShape& s, float* out) {
  pool.for_each_chunk(s.heads, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(s.lora);
    for (int64_t h = begin; h < end; ++h) {
      float* head = out + h * s.lora * s.nope;
      for (int64_t j = 0; j < s.nope; ++j) {
        dequantise_row(kv_b, h * (s.nope + s.v) + j, row.data());
        for (int64_t l = 0; l < s.lora; ++l) head[l * s.nope + j] = row[l];
      }
    }
  });
}

// out [H * (nope + v), lora] = kv_b_proj from k_b [H * lora, nope] and v_b [H * v, lora].
void make_up_projection(ThreadPool& pool, const Mat& k_b, const Mat& v_b, const HeadShape& s, float* out) {
  pool.for_each_chunk(s.heads, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(s.nope);
    for (int64_t h = begin; h < end; ++h) {
      float* head = out + h * (s.nope + s.v) * s.lora;
      for (int64_t l = 0; l < s.lora; ++l) {
        dequantise_row(k_b, h * s.lora + l, row.data());
        for (int64_t j = 0; j < s.nope; ++j) head[j * s.lora + l] = row[j];
      }
      for (int64_t j = 0; j < s.v; ++j) dequantise_row(v_b, h * s.v + j, head + (s.nope + j) * s.lora);
    }
  });
}

// Row of a head of `dim` rows that becomes row `row` when pairs (i, i + dim/2) are laid out as neighbours (2i, 2i + 1),
// or the way back.
int64_t paired_row(int64_t row, int64_t dim, bool to_neighbours) {
  const int64_t head = row / dim, r = row % dim, half = dim / 2;
  return head * dim + (to_neighbours ? r % 2 * half + r / 2 : r % half * 2 + r / half);
}

Mat matrix_of_vector(const float* values, int64_t n, bool as_rows) {
  Mat mat;
  mat.rows = as_rows ? n : 1;
  mat.cols = as_rows ? 1 : n;
  mat.row_bytes = mat.cols * static_cast<int64_t>(sizeof(float));
  mat.data = reinterpret_cast<const std::byte*>(values);
  return mat;
}

class Planner {
 public:
  Planner(const ExportSource& source, WeightFormat target) : source_(source), target_(target) {
    const ModelConfig& c = source.config;
    heads_ = {c.num_attention_heads, c.qk_nope_head_dim, c.v_head_dim, c.kv_lora_rank};
  }

  // False: the source does not have it and it is not to be written (an optional tensor).
  bool wanted(const WeightSpec& spec) const {
    const bool gguf = target_ == WeightFormat::kGguf;
    if (gguf && spec.layout == GgufLayout::kSame && spec.name.ends_with("kv_b_proj.weight")) return false;  // split
    if (is_up_projection(spec)) return true;
    return has(spec);
  }

  ExportTensor plan(TensorSpec spec, const std::vector<const WeightSpec*>& parts) const {
    ExportTensor tensor;
    tensor.spec = std::move(spec);
    tensor.cols = tensor.spec.shape.back();
    tensor.rows = 1;
    for (size_t i = 0; i + 1 < tensor.spec.shape.size(); ++i) tensor.rows *= tensor.spec.shape[i];
    const WeightSpec& first = *parts[0];
    if (is_up_projection(first) && !has(first)) {
      plan_up_projection(first, tensor);
    } else {
      plan_rows(parts, tensor);
    }
    for (const Mat& mat : tensor.sources) {
      if (!std::holds_alternative<const float**>(first.target))
        tensor.mapped.emplace_back(mat.data, static_cast<size_t>(mat.bytes()));
    }
    return tensor;
  }

 private:
  static bool is_up_projection(const WeightSpec& spec) {
    return spec.layout == GgufLayout::kKeyUp || spec.layout == GgufLayout::kValueUp ||
           spec.name.ends_with("kv_b_proj.weight");
  }
  // The source has this very tensor, not another form of it.
  static bool has(const WeightSpec& spec) {
    if (const auto* vector = std::get_if<const float**>(&spec.target)) return **vector != nullptr;
    return static_cast<bool>(*std::get<Mat*>(spec.target));
  }

  void plan_up_projection(const WeightSpec& spec, ExportTensor& tensor) const {
    const MlaParams& mla = mla_of(*source_.weights, spec.layer);
    const HeadShape s = heads_;
    if (spec.layout == GgufLayout::kKeyUp) {
      tensor.sources = {mla.kv_b_proj};
      tensor.make = [kv_b = mla.kv_b_proj, s](ThreadPool& pool, float* out) { make_key_up(pool, kv_b, s, out); };
    } else if (spec.layout == GgufLayout::kValueUp) {
      tensor.sources = {mla.kv_b_proj};
      auto mat = std::make_shared<const Mat>(mla.kv_b_proj);
      tensor.row = [mat, s](int64_t row) -> SourceRow {
        return {mat.get(), row / s.v * (s.nope + s.v) + s.nope + row % s.v};
      };
    } else {
      tensor.sources = {mla.k_b_proj, mla.v_b_proj};
      tensor.make = [k_b = mla.k_b_proj, v_b = mla.v_b_proj, s](ThreadPool& pool, float* out) {
        make_up_projection(pool, k_b, v_b, s, out);
      };
    }
  }

  void plan_rows(const std::vector<const WeightSpec*>& parts, ExportTensor& tensor) const {
    const bool reordered = source_.format != target_ && parts[0]->layout == GgufLayout::kRopePairs;
    auto mats = std::make_shared<std::vector<Mat>>();
    for (const WeightSpec* part : parts) {
      if (const auto* vector = std::get_if<const float**>(&part->target)) {
        mats->push_back(matrix_of_vector(**vector, part->shape[0], reordered));
      } else {
        mats->push_back(*std::get<Mat*>(part->target));
      }
    }
    if (mats->at(0).cols == 1 && reordered) std::swap(tensor.rows, tensor.cols);  // a bias: its numbers are the rows
    tensor.sources = *mats;
    const int64_t each = mats->at(0).rows;
    if (reordered) {
      const int64_t dim = each / parts[0]->heads;
      tensor.row = [mats, dim, to_neighbours = target_ == WeightFormat::kGguf](int64_t row) -> SourceRow {
        return {mats->data(), paired_row(row, dim, to_neighbours)};
      };
    } else {
      tensor.row = [mats, each](int64_t row) -> SourceRow { return {&(*mats)[row / each], row % each}; };
    }
  }

  const ExportSource& source_;
  WeightFormat target_;
  HeadShape heads_;
};

// What a half-precision target holds at most before it rounds to infinity.
float limit_of(DType dtype) {
  if (dtype == DType::kF16) return 65520.0f;
  if (dtype == DType::kBF16) return 0x1.ffp127f;
  return INFINITY;
}

// Converts rows [begin, end) to `out`; false when a number is not finite or too large for the target.
class RowConverter {
 public:
  RowConverter(const ExportTensor& tensor, const float* made)
      : tensor_(tensor),
        made_(made),
        row_bytes_(dtype_bytes(tensor.spec.dtype, tensor.cols)),
        limit_(limit_of(tensor.spec.dtype)) {}

  bool convert(int64_t begin, int64_t end, std::byte* out) const {
    std::vector<float> row(tensor_.cols);
    for (int64_t i = begin; i < end; ++i, out += row_bytes_) {
      const float* values = row.data();
      if (made_ != nullptr) {
        values = made_ + i * tensor_.cols;
      } else {
        const SourceRow source = tensor_.row(i);
        dequantise_row(*source.mat, source.row, row.data());
        if (source.mat->dtype == tensor_.spec.dtype && source.mat->scales == nullptr) {
          if (!all_finite(values, tensor_.cols)) return false;
          std::memcpy(out, source.mat->row(source.row), static_cast<size_t>(row_bytes_));
          continue;
        }
      }
      for (int64_t j = 0; j < tensor_.cols; ++j) {
        if (!(std::fabs(values[j]) < limit_)) return false;
      }
      quantise_row(tensor_.spec.dtype, values, tensor_.cols, out);
    }
    return true;
  }

 private:
  const ExportTensor& tensor_;
  const float* made_;
  int64_t row_bytes_;
  float limit_;
};

// Lets go of the mapped rows [first, end): a tensor may be larger than memory.
void release_rows(const ExportTensor& tensor, int64_t first, int64_t end) {
  if (!tensor.row || tensor.mapped.empty()) return;
  const SourceRow a = tensor.row(first), b = tensor.row(end - 1);
  if (a.mat == b.mat) {
    const auto [low, high] = std::minmax(a.row, b.row);
    release_pages({a.mat->row(low), static_cast<size_t>((high + 1 - low) * a.mat->row_bytes)});
    return;
  }
  for (const Mat* mat = a.mat; mat <= b.mat; ++mat) release_pages({mat->data, static_cast<size_t>(mat->bytes())});
}

}  // namespace

Result<ExportSource> ExportSource::open(const Checkpoint& checkpoint) {
  ExportSource source;
  source.config = checkpoint.config();
  source.format = checkpoint.format();
  source.place = checkpoint.path();
  source.weights = std::make_unique<Weights>();
  BindOptions options;
  options.widen_fp8_up_projections = false;
  TRY(bind_weights(source.config, checkpoint.tensor_source(), source.weights.get(), options));
  source.config.num_nextn_predict_layers = static_cast<int64_t>(source.weights->mtp.size());
  source.config.fp8 = false;
  return source;
}

std::vector<GgufTensor> gguf_tensors(const std::vector<WeightSpec>& table,
                                     const std::function<bool(const WeightSpec&)>& keep, const ExportDType& dtype) {
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string_view, size_t> index;
  for (const WeightSpec& spec : table) {
    if (spec.gguf_name.empty() || !keep(spec)) continue;
    const auto [found, fresh] = index.emplace(spec.gguf_name, tensors.size());
    if (!fresh) {
      tensors[found->second].parts.push_back(&spec);
      continue;
    }
    tensors.push_back({{spec.gguf_name, dtype(spec, spec.shape.back()), spec.shape}, {&spec}});
  }
  for (GgufTensor& tensor : tensors) {
    if (tensor.parts[0]->expert >= 0)
      tensor.spec.shape.insert(tensor.spec.shape.begin(), static_cast<int64_t>(tensor.parts.size()));
  }
  return tensors;
}

std::vector<ExportTensor> export_tensors(const ExportSource& source, WeightFormat target, bool mtp,
                                         const ExportDType& dtype) {
  const std::vector<WeightSpec> table =
      weight_table(source.config, target, mtp && !source.weights->mtp.empty(), source.weights.get());
  const Planner planner(source, target);
  auto wanted = [&](const WeightSpec& spec) { return planner.wanted(spec); };
  std::vector<ExportTensor> tensors;
  if (target == WeightFormat::kGguf) {
    for (GgufTensor& tensor : gguf_tensors(table, wanted, dtype))
      tensors.push_back(planner.plan(std::move(tensor.spec), tensor.parts));
    return tensors;
  }
  for (const WeightSpec& spec : table) {
    if (!spec.name.empty() && wanted(spec))
      tensors.push_back(planner.plan({spec.name, dtype(spec, spec.shape.back()), spec.shape}, {&spec}));
  }
  return tensors;
}

bool convert_row(const ExportTensor& tensor, int64_t row, std::byte* out) {
  CHECK(tensor.row && row >= 0 && row < tensor.rows, "row {} of '{}'", row, tensor.spec.name);
  return RowConverter(tensor, nullptr).convert(row, row + 1, out);
}

Status stream_tensor(ThreadPool& pool, const ExportTensor& tensor, std::string_view place, const ExportSink& sink) {
  std::vector<float> made;
  if (tensor.make) {
    made.resize(tensor.rows * tensor.cols);
    tensor.make(pool, made.data());
  }
  const RowConverter converter(tensor, tensor.make ? made.data() : nullptr);
  const int64_t row_bytes = dtype_bytes(tensor.spec.dtype, tensor.cols);
  const int64_t piece_rows = std::max<int64_t>(1, kPieceBytes / (tensor.cols * static_cast<int64_t>(sizeof(float))));
  std::vector<std::byte> out(std::min(piece_rows, tensor.rows) * row_bytes);
  for (int64_t first = 0; first < tensor.rows; first += piece_rows) {
    const int64_t n = std::min(piece_rows, tensor.rows - first);
    std::atomic<bool> good{true};
    pool.for_each_chunk(n, std::max<int64_t>(1, n / (8 * pool.size())), [&](int64_t begin, int64_t end, int) {
      if (!converter.convert(first + begin, first + end, out.data() + begin * row_bytes)) good = false;
    });
    if (!good) {
      return make_error(Code::kCorrupt,
                        "{}: tensor '{}' holds a weight that is NaN, infinite or too large for {}. Hint: is the file "
                        "damaged? bf16 and f32 hold larger numbers than f16",
                        place, tensor.spec.name, dtype_name(tensor.spec.dtype));
    }
    TRY(sink(std::span(out).first(static_cast<size_t>(n * row_bytes))));
    release_rows(tensor, first, first + n);
  }
  for (std::span<const std::byte> mapped : tensor.mapped) release_pages(mapped);
  return {};
}

}  // namespace westlake
