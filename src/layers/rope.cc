#include "layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace westlake {
namespace {

// The (fractional) pair that turns `rotations` times over the original context:
// dim * ln(context / (rotations * 2 pi)) / (2 ln theta).
double yarn_pair_of(double rotations, double dim, double theta, double context) {
  return dim * std::log(context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

void scale_yarn(std::vector<float>& inv_freq, double theta, const RopeScaling& s) {
  const double dim = static_cast<double>(inv_freq.size()) * 2;
  double low = yarn_pair_of(s.beta_fast, dim, theta, s.original_max_position_embeddings);
  double high = yarn_pair_of(s.beta_slow, dim, theta, s.original_max_position_embeddings);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // a ramp of no width divides by zero
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float ramp = static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float stretched = static_cast<float>(inv_freq[i] / s.factor);
    inv_freq[i] = stretched * ramp + inv_freq[i] * (1 - ramp);
  }
}

void scale_llama3(std::vector<float>& inv_freq, const RopeScaling& s) {
  const double context = s.original_max_position_embeddings;
  const double low_wavelength = context / s.low_freq_factor, high_wavelength = context / s.high_freq_factor;
  for (float& f : inv_freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      f = static_cast<float>(f / s.factor);
    } else {
      const double smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = static_cast<float>((1 - smooth) * f / s.factor + smooth * f);
    }
  }
}

}  // namespace

double yarn_get_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

Rope::Rope(int64_t dim, double rope_theta, const RopeScaling& scaling) : inv_freq_(dim / 2) {
  CHECK(dim > 0 && dim % 2 == 0, "dim {}", dim);
  for (int64_t i = 0; i < dim / 2; ++i) {
    // Float arithmetic as the published code does it: 1 / theta^(2i/dim).
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    inv_freq_[i] = 1.0f / static_cast<float>(std::pow(rope_theta, static_cast<double>(exponent)));
  }
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      for (float& f : inv_freq_) f = static_cast<float>(f / scaling.factor);
      break;
    case RopeScaling::Type::kYarn:
      scale_yarn(inv_freq_, rope_theta, scaling);
      if (scaling.attention_factor != 0) {
        attention_factor_ = scaling.attention_factor;
      } else if (scaling.mscale != 0 && scaling.mscale_all_dim != 0) {
        attention_factor_ =
            yarn_get_mscale(scaling.factor, scaling.mscale) / yarn_get_mscale(scaling.factor, scaling.mscale_all_dim);
      } else {
        attention_factor_ = yarn_get_mscale(scaling.factor, 1);
      }
      break;
    case RopeScaling::Type::kLlama3:
      scale_llama3(inv_freq_, scaling);
      break;
    case RopeScaling::Type::kFactors:
      CHECK(scaling.factors.size() == inv_freq_.size());
      for (size_t i = 0; i < inv_freq_.size(); ++i) inv_freq_[i] /= scaling.factors[i];
      break;
  }
}

void Rope::angles(int64_t position, float* cos_out, float* sin_out) const {
  const float scale = static_cast<float>(attention_factor_);
  for (size_t i = 0; i < inv_freq_.size(); ++i) {
    // The product is rounded to float32 as the references do it, then the angle is exact.
    const double angle = static_cast<float>(position) * inv_freq_[i];
    cos_out[i] = static_cast<float>(std::cos(angle)) * scale;
    sin_out[i] = static_cast<float>(std::sin(angle)) * scale;
  }
}

}  // namespace westlake
