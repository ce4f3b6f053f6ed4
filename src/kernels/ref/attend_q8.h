// Attention over int8 keys and values, one number at a time: the truth for attend_q8 of every level.
#pragma once

#include "kernels/kernels.h"

namespace westlake::ref {

void attend_q8(const AttendQ8Args& args);
void attend_q8_merge(const AttendPart& later, const AttendPart& to, int64_t n);
float quantise_row(const float* x, int64_t n, int8_t* qs);

}  // namespace westlake::ref
