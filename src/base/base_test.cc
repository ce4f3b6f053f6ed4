#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/thread_pool.h"

namespace westlake {
namespace {

std::string temporary_folder() {
  std::string path = (std::filesystem::temp_directory_path() / "westlake_base_XXXXXX").string();
  CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

Result<int> half(int n) {
  if (n % 2 != 0) return make_error(Code::kInvalidArgument, "{} is odd", n);
  return n / 2;
}

Result<int> quarter(int n) {
  TRY_ASSIGN(const int h, half(n));
  return half(h);
}

TEST(Result, TryPassesErrorsOn) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(6).error().at("here").message, "here: 3 is odd");
}

TEST(File, AtomicWriteShowsNothingBeforeCommit) {
  const std::string folder = temporary_folder(), path = folder + "/f";
  {
    auto file = AtomicFile::create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write("half").ok());
    EXPECT_FALSE(is_file(path));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder)) << "an abandoned writer leaves nothing";
  ASSERT_TRUE(write_file(path, "whole").ok());
  EXPECT_EQ(read_file(path).value(), "whole");
  EXPECT_EQ(read_file(path, 3).error().code, Code::kExhausted);
  auto mapped = MappedFile::open(path);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ(mapped->text(), "whole");
  EXPECT_EQ(MappedFile::open(folder + "/none").error().code, Code::kNotFound);
  EXPECT_EQ(MappedFile::open(folder).error().code, Code::kInvalidArgument);
  std::filesystem::remove_all(folder);
}

TEST(File, WhatAKilledWriterLeftIsRemoved) {
  const std::string folder = temporary_folder(), path = folder + "/f";
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  ASSERT_EQ(waitpid(gone, nullptr, 0), gone);
  const std::string stale = fmt::format("{}.{}.tmp", path, gone), living = fmt::format("{}.1.tmp", path);
  const std::string others[] = {living, folder + "/g." + std::to_string(gone) + ".tmp", path + ".x1.tmp"};
  std::ofstream(stale) << "half";
  for (const std::string& other : others) std::ofstream(other) << "not ours";
  ASSERT_TRUE(write_file(path, "whole").ok());
  EXPECT_FALSE(std::filesystem::exists(stale));
  for (const std::string& other : others) EXPECT_TRUE(std::filesystem::exists(other)) << other;
  std::filesystem::remove_all(folder);
}

TEST(File, FullDiskIsAnErrorAndLeavesTheOldFile) {
  // /dev/full refuses every write; a symbolic link lets AtomicFile's temporary name point at it.
  const std::string folder = temporary_folder(), path = folder + "/f";
  ASSERT_TRUE(write_file(path, "old").ok());
  std::filesystem::create_symlink("/dev/full", fmt::format("{}.{}.tmp", path, getpid()));
  const Status status = write_file(path, "new");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("No space left"), std::string::npos) << status.error().message;
  EXPECT_EQ(read_file(path).value(), "old");
  std::filesystem::remove_all(folder);
}

TEST(File, DevicesAndPipesStayWhatTheyAre) {
  ASSERT_TRUE(write_file("/dev/null", "gone").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_FALSE(write_file("/dev/full", "text").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
}

TEST(ThreadPool, EveryIndexOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> seen(n);
        pool.for_range(n, grain, [&](int64_t b, int64_t e, int) {
          EXPECT_EQ(b % grain, 0);
          for (int64_t i = b; i < e; ++i) ++seen[i];
        });
        pool.for_each_chunk(n, grain, [&](int64_t b, int64_t e, int thread) {
          EXPECT_LT(thread, threads);
          for (int64_t i = b; i < e; ++i) ++seen[i];
        });
        for (const auto& count : seen) EXPECT_EQ(count, 2);
      }
    }
  }
}

TEST(ThreadPool, ManyShortRegions) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  // Enough for a lost wake-up to show; on a busy machine a region waits for a worker to get a core, milliseconds.
  constexpr int kRegions = 1000;
  for (int i = 0; i < kRegions; ++i) pool.run([&](int thread) { sum += thread; });
  EXPECT_EQ(sum, kRegions * 6);
}

TEST(Json, WriterAndReaderAgree) {
  JsonWriter w;
  w.begin_object().key("n").value(3).key("x").value(0.5).key("nan").value(0.0 / 0.0).key("s");
  w.value("a\"\\\n\x01\xff\xe4\xb8\xad").key("list").begin_array().value(true).null().value(uint64_t{7});
  w.end_array().end_object();
  auto document = JsonDocument::parse(w.text(), "test");
  ASSERT_TRUE(document.ok()) << document.error().message << w.text();
  JsonObject object = document->root().get_object();
  int64_t n = 0;
  std::string s;
  EXPECT_TRUE(json_read(object, "n", "test", &n).ok());
  EXPECT_EQ(n, 3);
  EXPECT_TRUE(json_read(object, "s", "test", &s).ok());
  EXPECT_EQ(s, "a\"\\\n\x01\xef\xbf\xbd\xe4\xb8\xad");
  EXPECT_EQ(json_read(object, "s", "test", &n).error().code, Code::kCorrupt);
  EXPECT_TRUE(json_read(object, "absent", "test", &n).ok());
  EXPECT_FALSE(JsonDocument::parse("{\"a\":", "test").ok());
}

TEST(Rng, KnownStream) {
  Rng a(1), b(1), c(2);
  EXPECT_EQ(a.next(), b.next());
  EXPECT_NE(a.next(), c.next());
  for (int i = 0; i < 1000; ++i) {
    const double u = a.uniform();
    EXPECT_TRUE(u >= 0 && u < 1);
    EXPECT_LT(a.below(7), 7u);
  }
}

TEST(Cpu, SaysSomething) {
  EXPECT_FALSE(cpu_name().empty());
  EXPECT_GT(total_memory_bytes(), available_memory_bytes());
  EXPECT_GT(peak_rss_bytes(), 0u);
}

}  // namespace
}  // namespace westlake
