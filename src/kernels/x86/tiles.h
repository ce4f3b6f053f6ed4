// The vocabulary of matrix tiles, in the instructions of AMX: eight tiles of at most 16 rows of 64 bytes. Included
// inside the level's namespace and target region; includes nothing itself. tiles_emulated.h has the same words in plain
// C++, so that the bodies written in them run, and are tested, where there is no such unit.
//
//   C [M, N] += A [M, K] B [K, N], a row of B being four int8 (or two bfloat16) of each column:
//   dot_i8     int32, exact: C[m][n] += sum_k sum_i A[m][4 k + i] B[k][4 n + i]
//   dot_bf16   float32: the even and the odd products of A's row are two chains of fused multiply-adds from zero, their
//              sum is added to C; to nearest even, denormals count as zero, MXCSR is not looked at
//
// Requires: the process was granted the tiles (cpu_features().amx_int8 and amx_bf16), C, A and B fit each other, and
// tiles_configure() came before; tiles_release() after, so that a thread that does other work carries no tiles about.
// In assembly, because the intrinsics of GCC 12 take the numbers of tiles from the text of their arguments only.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18, and volume 2.

struct TileShape {
  int rows, row_bytes;
};

inline void tiles_configure(const TileShape (&shapes)[8]) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  static_assert(sizeof config == 64);
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(shapes[i].row_bytes);
    config.rows[i] = static_cast<uint8_t>(shapes[i].rows);
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
inline void tiles_release() {
  __asm__ volatile("tilerelease" : : : "memory");
}

template <int kTile>
KERNEL_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows from p on, `stride` bytes apart.
template <int kTile>
KERNEL_INLINE void tile_load(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
KERNEL_INLINE void tile_store(void* p, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kC, int kA, int kB>
KERNEL_INLINE void dot_i8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
template <int kC, int kA, int kB>
KERNEL_INLINE void dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
