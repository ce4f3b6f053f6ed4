// The words of tiles.h in plain C++, one step of their definition after the other: for tests of the bodies that are
// written in them. Included inside the level's namespace and target region; includes nothing itself.

struct TileShape {
  int rows, row_bytes;
};

// Of one thread, as the registers are.
struct EmulatedTiles {
  bool configured = false;
  TileShape shapes[8];
  int8_t bytes[8][16][64];
};
inline EmulatedTiles& tiles() {
  static thread_local EmulatedTiles all;
  return all;
}

inline void tiles_configure(const TileShape (&shapes)[8]) {
  EmulatedTiles& t = tiles();
  for (int i = 0; i < 8; ++i) {
    CHECK(shapes[i].rows >= 1 && shapes[i].rows <= 16 && shapes[i].row_bytes >= 4 && shapes[i].row_bytes <= 64 &&
              shapes[i].row_bytes % 4 == 0,
          "tile {} of {} rows of {} bytes", i, shapes[i].rows, shapes[i].row_bytes);
    t.shapes[i] = shapes[i];
  }
  std::memset(t.bytes, 0, sizeof t.bytes);
  t.configured = true;
}
inline void tiles_release() {
  tiles().configured = false;
}

template <int kTile>
inline void tile_zero() {
  CHECK(tiles().configured);
  std::memset(tiles().bytes[kTile], 0, sizeof tiles().bytes[kTile]);
}
template <int kTile>
inline void tile_load(const void* p, int64_t stride) {
  EmulatedTiles& t = tiles();
  CHECK(t.configured);
  std::memset(t.bytes[kTile], 0, sizeof t.bytes[kTile]);
  for (int r = 0; r < t.shapes[kTile].rows; ++r)
    std::memcpy(t.bytes[kTile][r], static_cast<const std::byte*>(p) + r * stride,
                static_cast<size_t>(t.shapes[kTile].row_bytes));
}
template <int kTile>
inline void tile_store(void* p, int64_t stride) {
  EmulatedTiles& t = tiles();
  CHECK(t.configured);
  for (int r = 0; r < t.shapes[kTile].rows; ++r)
    std::memcpy(static_cast<std::byte*>(p) + r * stride, t.bytes[kTile][r],
                static_cast<size_t>(t.shapes[kTile].row_bytes));
}

// Shapes that do not fit are a fault of the processor.
template <int kC, int kA, int kB>
inline void check_dot() {
  const EmulatedTiles& t = tiles();
  const TileShape &c = t.shapes[kC], &a = t.shapes[kA], &b = t.shapes[kB];
  CHECK(t.configured && c.rows == a.rows && c.row_bytes == b.row_bytes && 4 * b.rows == a.row_bytes,
        "[{}, {}] += [{}, {}] [{}, {}]", c.rows, c.row_bytes, a.rows, a.row_bytes, b.rows, b.row_bytes);
  static_assert(kC != kA && kC != kB && kA != kB);
}

template <int kC, int kA, int kB>
inline void dot_i8() {
  check_dot<kC, kA, kB>();
  EmulatedTiles& t = tiles();
  for (int m = 0; m < t.shapes[kC].rows; ++m) {
    for (int n = 0; n < t.shapes[kC].row_bytes / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, t.bytes[kC][m] + 4 * n, 4);
      for (int k = 0; k < t.shapes[kB].rows; ++k) {
        for (int i = 0; i < 4; ++i) sum += t.bytes[kA][m][4 * k + i] * t.bytes[kB][k][4 * n + i];
      }
      std::memcpy(t.bytes[kC][m] + 4 * n, &sum, 4);
    }
  }
}

inline float without_denormals(float x) {
  return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}
inline float bf16_of_tile(const int8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return without_denormals(bf16_to_float(bits));
}

template <int kC, int kA, int kB>
inline void dot_bf16() {
  check_dot<kC, kA, kB>();
  EmulatedTiles& t = tiles();
  for (int m = 0; m < t.shapes[kC].rows; ++m) {
    for (int n = 0; n < t.shapes[kC].row_bytes / 4; ++n) {
      float chains[2] = {0, 0};
      for (int k = 0; k < t.shapes[kB].rows; ++k) {
        for (int i = 0; i < 2; ++i) {
          const float a = bf16_of_tile(t.bytes[kA][m] + 4 * k + 2 * i);
          const float b = bf16_of_tile(t.bytes[kB][k] + 4 * n + 2 * i);
          chains[i] = without_denormals(std::fma(a, b, chains[i]));
        }
      }
      float sum;
      std::memcpy(&sum, t.bytes[kC][m] + 4 * n, 4);
      sum = without_denormals(without_denormals(sum) + without_denormals(chains[0] + chains[1]));
      std::memcpy(t.bytes[kC][m] + 4 * n, &sum, 4);
    }
  }
}
