// scalar.h against its definitions: every bit pattern of the small formats, and rounding held against the two
// neighbouring numbers in long double.
#include "tensor/scalar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/rng.h"

namespace westlake {
namespace {

// The value of an IEEE-like bit pattern, from the definition. Infinities and NaN are the caller's.
long double value_of(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const long double fraction = std::ldexp(static_cast<long double>(bits & ((1u << mantissa_bits) - 1)), -mantissa_bits);
  const long double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

uint32_t bits_of(float x) {
  return std::bit_cast<uint32_t>(x);
}

TEST(Scalar, EveryHalfHasItsValueAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float x = f16_to_float(half);
    if ((bits & 0x7c00) == 0x7c00) {
      if ((bits & 0x3ff) != 0) {
        ASSERT_TRUE(std::isnan(x)) << bits;
        ASSERT_TRUE(std::isnan(f16_to_float(float_to_f16(x)))) << bits;
        continue;
      }
      ASSERT_TRUE(std::isinf(x)) << bits;
    } else {
      ASSERT_EQ(static_cast<long double>(x), value_of(bits, 5, 10)) << bits;
    }
    ASSERT_EQ(std::signbit(x), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(float_to_f16(x), half);
  }
}

TEST(Scalar, EveryBf16HasItsValueAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto stored = static_cast<uint16_t>(bits);
    const float x = bf16_to_float(stored);
    if ((bits & 0x7f80) == 0x7f80) {
      if ((bits & 0x7f) != 0) {
        ASSERT_TRUE(std::isnan(x)) << bits;
        ASSERT_TRUE(std::isnan(bf16_to_float(float_to_bf16(x)))) << bits;
        continue;
      }
      ASSERT_TRUE(std::isinf(x)) << bits;
    } else {
      ASSERT_EQ(static_cast<long double>(x), value_of(bits, 8, 7)) << bits;
    }
    ASSERT_EQ(std::signbit(x), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(float_to_bf16(x), stored);
  }
}

// Every float between two neighbours of the 16-bit format goes to the nearer one, halfway to the even one. `above` is
// one step over the largest finite number: what infinity stands for in rounding.
void expect_nearest(float x, uint16_t got, float (*decode)(uint16_t), uint16_t infinity, long double above) {
  const auto magnitude = static_cast<uint16_t>(got & 0x7fff);
  const auto value = [&](uint16_t bits) { return bits == infinity ? above : static_cast<long double>(decode(bits)); };
  ASSERT_LE(magnitude, infinity) << x;
  ASSERT_EQ((got & 0x8000) != 0, std::signbit(x)) << x;
  const long double exact = std::fabs(static_cast<long double>(x)), miss = std::fabs(exact - value(magnitude));
  if (magnitude > 0) {
    const long double other = std::fabs(exact - value(static_cast<uint16_t>(magnitude - 1)));
    ASSERT_TRUE(miss < other || (miss == other && magnitude % 2 == 0)) << x << " -> " << got;
  }
  if (magnitude < infinity) {
    const long double other = std::fabs(exact - value(static_cast<uint16_t>(magnitude + 1)));
    ASSERT_TRUE(miss < other || (miss == other && magnitude % 2 == 0)) << x << " -> " << got;
  }
}

// Floats around `x`: itself, its neighbours, and both signs.
template <typename Check>
void around(float x, Check check) {
  for (float near : {x, std::nextafter(x, 0.0f), std::nextafter(x, INFINITY)}) {
    if (std::isinf(near)) continue;
    check(near);
    check(-near);
  }
}

TEST(Scalar, HalvesRoundToNearestEven) {
  const auto check = [](float x) { expect_nearest(x, float_to_f16(x), f16_to_float, 0x7c00, 65536); };
  for (uint16_t bits = 0; bits < 0x7c00; ++bits) {
    const long double next = bits == 0x7bff ? 65536.0L : static_cast<long double>(f16_to_float(bits + 1));
    around(f16_to_float(bits), check);
    around(static_cast<float>((static_cast<long double>(f16_to_float(bits)) + next) / 2), check);
    if (HasFatalFailure()) return;
  }
  Rng rng(1);
  for (int i = 0; i < 300000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(rng.next() >> 32));
    if (std::isnan(x) || std::fabs(x) > 65536) continue;
    check(x);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(float_to_f16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(float_to_f16(std::numeric_limits<float>::denorm_min()), 0x0000);
}

TEST(Scalar, Bf16RoundsToNearestEven) {
  const auto check = [](float x) { expect_nearest(x, float_to_bf16(x), bf16_to_float, 0x7f80, 0x1p128L); };
  for (uint16_t bits = 0; bits < 0x7f80; ++bits) {
    around(bf16_to_float(bits), check);
    around(std::bit_cast<float>((static_cast<uint32_t>(bits) << 16) + 0x8000), check);  // halfway
    if (HasFatalFailure()) return;
  }
  Rng rng(2);
  for (int i = 0; i < 300000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(rng.next() >> 32));
    if (!std::isfinite(x)) continue;
    check(x);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_bf16(-INFINITY), 0xff80);
}

TEST(Scalar, NanStaysNanWhateverItsPayload) {
  for (uint32_t bits : {0x7f800001u, 0x7fffffffu, 0x7fc00000u, 0xff800001u, 0xffffffffu, 0xff80ffffu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(nan)))) << bits;
    EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan)))) << bits;
    EXPECT_EQ(float_to_f16(nan) >> 15, bits >> 31) << bits;
    EXPECT_EQ(float_to_bf16(nan) >> 15, bits >> 31) << bits;
  }
}

TEST(Scalar, EveryE4m3HasItsValue) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float x = e4m3_to_float(static_cast<uint8_t>(bits));
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x)) << bits;
    } else {
      EXPECT_EQ(static_cast<long double>(x), value_of(bits, 4, 3)) << bits;
      EXPECT_EQ(std::signbit(x), bits >= 0x80) << bits;
    }
  }
  // A few by hand, from the table of the OCP 8-bit floating point specification.
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0x38), 1.0f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);
  EXPECT_EQ(e4m3_to_float(0x07), 0.875f * 0x1p-6f);
  EXPECT_EQ(e4m3_to_float(0x81), -0x1p-9f);
}

TEST(Scalar, EveryE8m0IsItsPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    EXPECT_EQ(e8m0_to_float(static_cast<uint8_t>(bits)), std::ldexp(1.0f, bits - 127)) << bits;
  }
  EXPECT_EQ(bits_of(e8m0_to_float(0)), 0x00400000u);  // 2^-127 is a subnormal float, and exact
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

}  // namespace
}  // namespace westlake
