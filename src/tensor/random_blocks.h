// Random weights of any format, at the speed of memory: what a synthetic model file is filled with.
// Idea: every bit of the quantised integers is random; only the scales are set, so that the weights are finite, have
// mean zero and the standard deviation asked for.
#pragma once

#include <cstddef>
#include <span>

#include "base/rng.h"
#include "tensor/dtype.h"

namespace westlake {

// Fills `out` with blocks of `dtype`. Plain numbers are normal (256 levels), integers in blocks are uniform. The same
// generator gives the same bytes on every machine. The deviation is met within 20 % from 0.001 to 100 (kF8E4M3: from
// 0.004, and before its scales are applied); outside, the nearest the scales can hold.
// Requires: a weight dtype other than kF8E8M0 (a scale is no weight); stddev finite and above 0; whole blocks.
void fill_random_blocks(DType dtype, Rng& rng, float stddev, std::span<std::byte> out);

}  // namespace westlake
