#include "train/loss_log.h"

#include <cerrno>
#include <cstdio>

#include "base/file.h"

namespace westlake {
namespace {

constexpr std::string_view kHeader =
    "step,tokens,loss,main,mtp,bits_per_byte,grad_norm,lr_factor,tokens_per_s,flop_s,seconds,cpu_seconds,largest_load,"
    "valid_loss,valid_bits_per_byte\n";

std::string line_of(const StepReport& r) {
  return fmt::format(
      "{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6g},{:.6g},{:.1f},{:.6g},{:.3f},{:.3f},{:.4g},{:.6f},{:.6f}\n", r.step,
      r.tokens, r.loss, r.main, r.mtp, r.bits_per_byte, r.grad_norm, r.lr_factor, r.tokens_per_s, r.flop_s, r.seconds,
      r.cpu_seconds, r.largest_load, r.valid_loss, r.valid_bits_per_byte);
}

bool parse_line(const char* line, StepReport* r) {
  return std::sscanf(line, "%ld,%ld,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf", &r->step, &r->tokens,
                     &r->loss, &r->main, &r->mtp, &r->bits_per_byte, &r->grad_norm, &r->lr_factor, &r->tokens_per_s,
                     &r->flop_s, &r->seconds, &r->cpu_seconds, &r->largest_load, &r->valid_loss,
                     &r->valid_bits_per_byte) == 15;
}

}  // namespace

Result<LossLog> LossLog::open(const RunFolder& folder, int64_t step) {
  LossLog log;
  log.path_ = folder.file("loss.csv");
  std::string kept(kHeader);
  if (is_file(log.path_)) {
    TRY_ASSIGN(const std::string text, read_file(log.path_));
    for (size_t at = text.find('\n'); at != std::string::npos && at + 1 < text.size();) {
      const size_t end = text.find('\n', at + 1);
      if (end == std::string::npos) break;  // a line that a kill cut off
      StepReport row;
      const std::string line = text.substr(at + 1, end - at);
      if (parse_line(line.c_str(), &row) && row.step <= step) {
        kept += line;
        log.rows_.push_back(row);
      }
      at = end;
    }
  }
  TRY(write_file(log.path_, kept));
  return log;
}

Status LossLog::append(const StepReport& report) {
  rows_.push_back(report);
  std::FILE* file = std::fopen(path_.c_str(), "a");
  if (file == nullptr) return make_error(Code::kIo, "{}: {}", path_, errno_text(errno));
  const std::string line = line_of(report);
  const bool written = std::fwrite(line.data(), 1, line.size(), file) == line.size();
  const int error = errno;
  if (std::fclose(file) != 0 || !written) return make_error(Code::kIo, "{}: {}", path_, errno_text(error));
  return {};
}

}  // namespace westlake
