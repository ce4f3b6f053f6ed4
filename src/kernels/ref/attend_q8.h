// Attention over int8 keys and values and the products that make them, one number at a time: the truth for every level.
#pragma once

#include "kernels/kernels.h"

namespace westlake::ref {

void attend_q8(const AttendQ8Args& args);
void attend_q8_merge(const AttendPart& later, const AttendPart& to, int64_t n);
void pack_q8(const float* w, int64_t ldw, int64_t K, std::byte* out, float* scale, int8_t* scratch);
void expand_q8(const ExpandQ8Args& args);
float quantise_row(const float* x, int64_t n, int8_t* qs);

}  // namespace westlake::ref
