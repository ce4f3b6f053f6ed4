// Pages: taken on demand, used again, bounded; sequences that share a pool never share a page.
#include "infer/kv_cache.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>

namespace westlake {
namespace {

const CacheShape kShape{3, 4, 5};  // 3 layers, 4 positions a page, 5 floats

TEST(PagePool, TakesOnDemandAndReuses) {
  PagePool pool(kShape);
  EXPECT_EQ(pool.page_bytes(), 3 * 4 * 5 * 4);
  EXPECT_EQ(pool.allocated_bytes(), 0);
  const PagePool::Page a = *pool.take(), b = *pool.take();
  EXPECT_NE(pool.data(a), pool.data(b));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.data(a)) % 64, 0u);
  EXPECT_EQ(pool.used_pages(), 2);
  float* const address = pool.data(a);
  pool.give_back(a);
  EXPECT_EQ(pool.used_pages(), 1);
  EXPECT_EQ(pool.data(*pool.take()), address);
  EXPECT_EQ(pool.allocated_bytes(), 2 * pool.page_bytes());
}

TEST(PagePool, Limit) {
  PagePool pool(kShape, 2 * 240 + 239);  // two pages and not quite a third
  const PagePool::Page a = *pool.take();
  ASSERT_TRUE(pool.take().ok());
  const Result<PagePool::Page> third = pool.take();
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, Code::kExhausted);
  EXPECT_NE(third.error().message.find("8 positions"), std::string::npos) << third.error().message;
  pool.give_back(a);
  EXPECT_TRUE(pool.take().ok());
}

TEST(PagePoolDeathTest, DoubleGiveBack) {
  PagePool pool(kShape);
  const PagePool::Page page = *pool.take();
  pool.give_back(page);
  EXPECT_DEATH(pool.give_back(page), "is not taken");
}

TEST(SequenceCache, GrowsAndShrinksByPages) {
  PagePool pool(kShape);
  SequenceCache cache(pool);
  EXPECT_TRUE(cache.ensure(0).ok());
  EXPECT_EQ(pool.used_pages(), 0);
  const int64_t pages_for[] = {0, 1, 1, 1, 1, 2, 2, 2, 2, 3};
  for (int64_t n = 1; n <= 9; ++n) {
    ASSERT_TRUE(cache.ensure(n).ok());
    cache.set_length(n);
    EXPECT_EQ(pool.used_pages(), pages_for[n]) << n;
  }
  float* const first = cache.pages()[0];
  for (int64_t n = 9; n >= 0; --n) {
    cache.truncate(n);
    EXPECT_EQ(cache.length(), n);
    EXPECT_EQ(pool.used_pages(), pages_for[n]) << n;
    if (n > 0) {
      EXPECT_EQ(cache.pages()[0], first);
    }
  }
}

TEST(SequenceCache, KeepsWhatItHasWhenThePoolIsEmpty) {
  PagePool pool(kShape, 3 * 240);
  SequenceCache cache(pool);
  ASSERT_TRUE(cache.ensure(5).ok());
  cache.set_length(5);
  float* const second = cache.pages()[1];
  EXPECT_EQ(cache.ensure(17).error().code, Code::kExhausted);
  EXPECT_EQ(pool.used_pages(), 2);  // what the failed call took is back
  EXPECT_EQ(cache.length(), 5);
  EXPECT_EQ(cache.pages()[1], second);
  EXPECT_TRUE(cache.ensure(12).ok());
}

TEST(SequenceCache, TwoSequencesDoNotMeet) {
  PagePool pool(kShape);
  SequenceCache a(pool);
  std::set<float*> seen;
  {
    SequenceCache b(pool);
    for (int64_t n = 1; n <= 20; ++n) {
      ASSERT_TRUE(a.ensure(n).ok());
      ASSERT_TRUE(b.ensure(n).ok());
    }
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(seen.insert(a.pages()[i]).second);
      EXPECT_TRUE(seen.insert(b.pages()[i]).second);
    }
    EXPECT_EQ(pool.used_pages(), 10);
  }
  EXPECT_EQ(pool.used_pages(), 5);
}

}  // namespace
}  // namespace westlake
