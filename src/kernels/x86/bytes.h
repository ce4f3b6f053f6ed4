// Few bytes of a few rows, the same for every level. Included before the vocabulary, inside the level's namespace and
// target region; includes nothing itself.

// The words of the vocabulary must vanish into the bodies: an array of registers that crosses a call lives in memory.
#define KERNEL_INLINE inline __attribute__((always_inline))

// Asks for the cache line of p. In assembly, because GCC 12 takes a function that only prefetches for one without
// effect and drops the calls.
KERNEL_INLINE void prefetch(const std::byte* p) {
  __asm__ volatile("prefetcht0 %0" : : "m"(*p));
}

// The same, but only as far as the second-level cache: for what is used later than the first one holds it.
KERNEL_INLINE void prefetch_far(const std::byte* p) {
  __asm__ volatile("prefetcht1 %0" : : "m"(*p));
}

KERNEL_INLINE __m128i load_16_bytes(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

KERNEL_INLINE uint64_t load_u16(const std::byte* p) {
  uint16_t x;
  std::memcpy(&x, p, 2);
  return x;
}
KERNEL_INLINE uint64_t load_u32(const std::byte* p) {
  uint32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

// Four half words of four rows in one integer register: the integer units are idle here, the shuffle unit is not.
KERNEL_INLINE int64_t four_u16(const std::byte* p, int64_t stride) {
  const uint64_t a = load_u16(p) | load_u16(p + stride) << 16;
  const uint64_t b = load_u16(p + 2 * stride) | load_u16(p + 3 * stride) << 16;
  return static_cast<int64_t>(a | b << 32);
}
KERNEL_INLINE int64_t two_u32(const std::byte* p, int64_t stride) {
  return static_cast<int64_t>(load_u32(p) | load_u32(p + stride) << 32);
}
