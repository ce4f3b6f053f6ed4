// report.html: curves as SVG drawn here, so that the file needs no script and no server.
#include <algorithm>
#include <cmath>
#include <functional>

#include "base/file.h"
#include "train/loss_log.h"

namespace westlake {
namespace {

constexpr double kWidth = 640, kHeight = 220, kLeft = 56, kBottom = 26, kTop = 10;
constexpr size_t kMostPoints = 800;

struct Curve {
  std::string_view name, colour;
  std::vector<std::pair<double, double>> points;
};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Means of neighbouring points where there are more than a screen shows.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  const size_t group = std::max<size_t>(1, (points.size() + kMostPoints - 1) / kMostPoints);
  std::vector<std::pair<double, double>> out;
  for (size_t i = 0; i < points.size(); i += group) {
    const size_t n = std::min(group, points.size() - i);
    double sum = 0;
    for (size_t j = i; j < i + n; ++j) sum += points[j].second;
    out.push_back({points[i + n - 1].first, sum / static_cast<double>(n)});
  }
  return out;
}

std::string number(double x) {
  const double size = std::fabs(x);
  if (size >= 1e9) return fmt::format("{:.3g}G", x / 1e9);
  if (size >= 1e6) return fmt::format("{:.3g}M", x / 1e6);
  if (size >= 1e4) return fmt::format("{:.3g}k", x / 1e3);
  return fmt::format("{:.4g}", x);
}

std::string chart(std::string_view title, std::vector<Curve> curves, double cap = INFINITY) {
  double x_end = 1, low = INFINITY, high = -INFINITY;
  for (Curve& c : curves) {
    c.points = thinned(c.points);
    for (auto& [x, y] : c.points) {
      y = std::min(y, cap);
      x_end = std::max(x_end, x);
      low = std::min(low, y);
      high = std::max(high, y);
    }
  }
  if (!(low <= high)) return "";
  if (high - low < 1e-12) high = low + 1;
  const auto at_x = [&](double x) { return kLeft + (kWidth - kLeft - 8) * x / x_end; };
  const auto at_y = [&](double y) { return kTop + (kHeight - kTop - kBottom) * (high - y) / (high - low); };
  std::string svg = fmt::format("<figure><figcaption>{}", title);
  for (const Curve& c : curves) svg += fmt::format(" <b style=\"color:{}\">&#9632; {}</b>", c.colour, c.name);
  svg += fmt::format("</figcaption><svg viewBox=\"0 0 {} {}\">", kWidth, kHeight);
  for (int i = 0; i <= 4; ++i) {
    const double y = low + (high - low) * i / 4, x = x_end * i / 4;
    svg += fmt::format(
        "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" class=\"g\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5}</text><text x=\"{6:.1f}\" y=\"{7}\" text-anchor=\"middle\">{8}</text>",
        kLeft, at_y(y), kWidth - 8, kLeft - 4, at_y(y) + 4, number(y), at_x(x), kHeight - 8, number(x));
  }
  for (const Curve& c : curves) {
    svg += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"", c.colour);
    for (const auto& [x, y] : c.points) svg += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(y));
    svg += "\"/>";
  }
  return svg + "</svg></figure>\n";
}

using Field = double StepReport::*;

Curve curve_of(std::string_view name, std::string_view colour, const std::vector<StepReport>& rows, Field field,
               bool skip_zero = false) {
  Curve curve = {name, colour, {}};
  for (const StepReport& row : rows) {
    const double y = row.*field;
    if (std::isfinite(y) && !(skip_zero && y == 0)) curve.points.push_back({static_cast<double>(row.tokens), y});
  }
  return curve;
}

}  // namespace

Status write_report(const RunFolder& folder, const ReportFacts& facts, const std::vector<StepReport>& rows,
                    const std::vector<ReportSample>& samples) {
  std::string html = fmt::format(
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>body{{font:15px/1.5 "
      "system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#222;background:#fff}}figure{{display:"
      "inline-block;width:640px;max-width:100%;margin:0 8px 16px 0}}svg{{width:100%}}svg "
      "text{{font-size:11px;fill:#555}}.g{{"
      "stroke:#e3e3e3}}table{{border-collapse:collapse}}td{{padding:2px 16px 2px "
      "0;vertical-align:top}}pre{{white-space:pre-"
      "wrap;background:#f6f6f6;padding:8px}}</style><h1>{0}</h1><table>",
      escaped(facts.title));
  const auto row = [&](std::string_view what, std::string_view value) {
    html += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escaped(what), escaped(value));
  };
  for (const auto& [what, value] : facts.rows) row(what, value);
  if (!rows.empty()) {
    const StepReport& last = rows.back();
    row("steps", fmt::format("{} of {}", last.step, last.steps > 0 ? std::to_string(last.steps) : "?"));
    row("tokens", number(static_cast<double>(last.tokens)));
    row("time", fmt::format("{:.0f} s, {:.0f} CPU-seconds", last.seconds, last.cpu_seconds));
    row("energy", facts.joules > 0 ? fmt::format("{:.0f} J", facts.joules) : "not readable on this machine");
  }
  html += "</table><p>Over tokens:</p>\n";
  const double cap = rows.size() > 20 ? rows[rows.size() / 50].bits_per_byte : INFINITY;
  html += chart("bits per byte",
                {curve_of("training", "#3366cc", rows, &StepReport::bits_per_byte, true),
                 curve_of("validation", "#dc3912", rows, &StepReport::valid_bits_per_byte, true)},
                cap);
  html += chart("tokens a second", {curve_of("rate", "#109618", rows, &StepReport::tokens_per_s)});
  html += chart("norm of the gradient", {curve_of("norm", "#990099", rows, &StepReport::grad_norm)});
  html += chart("busiest expert, times the mean", {curve_of("load", "#ff9900", rows, &StepReport::largest_load, true)});
  html += chart("learning rate, times its base", {curve_of("factor", "#0099c6", rows, &StepReport::lr_factor)});
  if (!samples.empty()) html += "<h2>Samples</h2>";
  for (const ReportSample& s : samples) {
    html += fmt::format("<p>step {}</p><pre><b>{}</b>{}</pre>", s.step, escaped(s.prompt), escaped(s.text));
  }
  return write_file(folder.file("report.html"), html + "</html>\n");
}

}  // namespace westlake
