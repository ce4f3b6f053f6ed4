#include "model/panel_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <vector>

#include "model/checkpoint.h"
#include "model/kept_folder.h"
#include "tensor/panels.h"

namespace westlake {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kPiece = int64_t{4} << 20;   // bytes that a thread turns over and writes at a time
constexpr size_t kHugePage = size_t{2} << 20;  // alignment of panels in memory
constexpr char kMagic[8] = {'W', 'L', 'P', 'A', 'N', 'E', 'L', '1'};  // the last character is the version of the layout

// The first bytes of a file; the panels of all matrices follow from kHeaderBytes on, each at a multiple of kAlign.
struct Header {
  char magic[8];
  uint64_t size_bytes;   // of the file
  uint64_t shapes_hash;  // dtype, rows and cols of the matrices in order
  uint64_t weights_hash[2];
  uint64_t header_hash;  // of the bytes before it
};
constexpr int64_t kHeaderBytes = 4096;

// A matrix and where its panels go.
struct Piece {
  Mat* target;
  Mat rows;  // as the checkpoint has it
  int64_t offset;
  int64_t panels() const { return rows.rows / kPanelRows; }
  int64_t panel_bytes() const { return kPanelRows * rows.row_bytes; }
};

struct Layout {
  std::vector<Piece> pieces;
  int64_t size_bytes = 0;
};

// MLA's up-projections are used head by head: a head must be whole panels.
bool heads_are_panels(const ModelConfig& c, const LayerWeights& layer, const Mat* mat) {
  const auto whole = [](int64_t rows) { return rows % kPanelRows == 0; };
  if (mat == &layer.mla.kv_b_proj) return whole(c.qk_nope_head_dim) && whole(c.v_head_dim);
  if (mat == &layer.mla.k_b_proj) return whole(c.kv_lora_rank);
  if (mat == &layer.mla.v_b_proj) return whole(c.v_head_dim);
  return true;
}

Layout plan(const ModelConfig& config, Weights* weights) {
  const auto fits = [&](const Mat* mat) {
    const auto layer_fits = [&](const LayerWeights& layer) { return heads_are_panels(config, layer, mat); };
    return std::all_of(weights->layers.begin(), weights->layers.end(), layer_fits) &&
           std::all_of(weights->mtp.begin(), weights->mtp.end(),
                       [&](const MtpWeights& m) { return layer_fits(m.layer); });
  };
  Layout layout;
  for_each_matrix(weights, [&](Mat& mat) {
    if (!can_be_panels(mat) || !fits(&mat)) return;
    layout.pieces.push_back({&mat, mat, layout.size_bytes});
    layout.size_bytes += (mat.bytes() + kAlign - 1) / kAlign * kAlign;
  });
  return layout;
}

void point_at(const Layout& layout, const std::byte* base) {
  for (const Piece& piece : layout.pieces) {
    piece.target->data = base + piece.offset;
    piece.target->layout = MatLayout::kPanels;
  }
}

// Some panels of one matrix: what a thread takes at a time.
struct Task {
  const Piece* piece;
  int64_t begin, end;
  int64_t bytes() const { return (end - begin) * piece->panel_bytes(); }
};

std::vector<Task> tasks_of(const Layout& layout) {
  std::vector<Task> tasks;
  for (const Piece& piece : layout.pieces) {
    const int64_t step = std::max<int64_t>(1, kPiece / piece.panel_bytes());
    for (int64_t p = 0; p < piece.panels(); p += step) tasks.push_back({&piece, p, std::min(p + step, piece.panels())});
  }
  return tasks;
}

// Bytes of the rows that a task reads.
std::span<const std::byte> source_of(const Task& task) {
  return {task.piece->rows.row(task.begin * kPanelRows), static_cast<size_t>(task.bytes())};
}

void for_each_task(const std::vector<Task>& tasks, const char* label, ThreadPool& pool,
                   FunctionRef<void(const Task&, int)> f) {
  for_each_piece(
      tasks.size(), [&](size_t i) { return tasks[i].bytes(); }, label, pool,
      [&](size_t i, int thread) { f(tasks[i], thread); });
}

void turn_over(const Task& task, std::byte* out) {
  for (int64_t p = task.begin; p < task.end; ++p)
    write_panel(task.piece->rows, p, out + (p - task.begin) * task.piece->panel_bytes());
  release_pages(source_of(task));
}

uint64_t shapes_hash(const Layout& layout) {
  std::vector<int64_t> shapes;
  for (const Piece& piece : layout.pieces)
    shapes.insert(shapes.end(), {static_cast<int64_t>(piece.rows.dtype), piece.rows.rows, piece.rows.cols});
  return hash_bytes(shapes.data(), shapes.size() * sizeof(int64_t));
}

// The kept file of some panels.
class PanelFile {
 public:
  PanelFile(std::string folder, const Checkpoint& checkpoint, const Layout& layout, ThreadPool& pool)
      : folder_(std::move(folder), checkpoint.files()),
        identity_(files_identity(checkpoint.files()) ^ shapes_hash(layout)),
        layout_(layout),
        pool_(pool) {}

  // The mapped file of these weights, made if there is none.
  Result<MappedFile> open(std::string* file_path) {
    TRY(folder_.create());
    TRY_ASSIGN(hash_, folder_.content_hash(identity_, [&] {
      std::vector<Bytes> pieces;
      for (const Task& task : tasks_of(layout_)) pieces.push_back(source_of(task));
      return hash_content(pieces, shapes_hash(layout_), pool_);
    }));
    const std::string target = fmt::format("{}/{}.panels", folder_.path(), hash_.text());
    *file_path = target;
    Result<MappedFile> file = map_checked(target);
    if (!file.ok()) {
      TRY(folder_.make(
          target, file_bytes(), [&] { return map_checked(target).ok(); },
          [&](int fd, const std::string& temporary) { return write(fd, temporary, target); }));
      file = map_checked(target);
    }
    if (file.ok()) folder_.mark_used(target);
    return file;
  }

 private:
  int64_t file_bytes() const { return kHeaderBytes + layout_.size_bytes; }

  Header header() const {
    Header h = {};
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.size_bytes = static_cast<uint64_t>(file_bytes());
    h.shapes_hash = shapes_hash(layout_);
    h.weights_hash[0] = hash_.high;
    h.weights_hash[1] = hash_.low;
    h.header_hash = hash_bytes(&h, offsetof(Header, header_hash));
    return h;
  }

  // The file, when its header is the one these weights would get, and the panels that are looked at are theirs.
  Result<MappedFile> map_checked(const std::string& path) {
    TRY_ASSIGN(MappedFile file, MappedFile::open(path));
    const Header wanted = header();
    const auto bytes = file.bytes();
    if (static_cast<int64_t>(bytes.size()) != file_bytes() || std::memcmp(bytes.data(), &wanted, sizeof wanted) != 0)
      return make_error(Code::kCorrupt, "{}: is no panel file of these weights", path);
    std::vector<std::byte> panel;
    for (size_t i = 0; i < layout_.pieces.size(); i += std::max<size_t>(1, layout_.pieces.size() / 16)) {
      const Piece& piece = layout_.pieces[i];
      panel.resize(static_cast<size_t>(piece.panel_bytes()));
      const int64_t p = static_cast<int64_t>(i) % piece.panels();
      write_panel(piece.rows, p, panel.data());
      if (std::memcmp(bytes.data() + kHeaderBytes + piece.offset + p * piece.panel_bytes(), panel.data(), panel.size()))
        return make_error(Code::kCorrupt, "{}: panel {} of matrix {} is not that of the weights", path, p, i);
    }
    file.use_large_pages();
    return file;
  }

  Status write(int fd, const std::string& temporary, const std::string& target) {
    const int failed = posix_fallocate(fd, 0, file_bytes());
    if (failed != 0) return make_error(Code::kExhausted, "{}: {}", temporary, errno_text(failed));
    TRY(fill(fd, temporary));
    if (fsync(fd) != 0 || rename(temporary.c_str(), target.c_str()) != 0)
      return make_error(Code::kIo, "{}: {}", temporary, errno_text(errno));
    // Written pages lie about in small pieces of memory: they are let go, and read again in large ones.
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return {};
  }

  Status fill(int fd, const std::string& path) {
    const std::vector<Task> tasks = tasks_of(layout_);
    int64_t most = 0;
    for (const Task& task : tasks) most = std::max(most, task.bytes());
    std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(pool_.size()));
    for (auto& buffer : buffers) buffer.resize(static_cast<size_t>(most));
    std::atomic<int> error{0};
    for_each_task(tasks, "laying out the weights (once)", pool_, [&](const Task& task, int thread) {
      std::byte* out = buffers[static_cast<size_t>(thread)].data();
      turn_over(task, out);
      const int64_t at = kHeaderBytes + task.piece->offset + task.begin * task.piece->panel_bytes();
      for (int64_t done = 0; done < task.bytes() && error == 0;) {
        const ssize_t n = pwrite(fd, out + done, static_cast<size_t>(task.bytes() - done), at + done);
        if (n > 0) {
          done += n;
        } else if (errno != EINTR) {
          error = n == 0 ? EIO : errno;
        }
      }
    });
    const Header h = header();
    if (error == 0 && pwrite(fd, &h, sizeof h, 0) != static_cast<ssize_t>(sizeof h)) error = errno;
    if (error != 0)
      return make_error(error == ENOSPC ? Code::kExhausted : Code::kIo, "{}: {}", path, errno_text(error));
    return {};
  }

  const KeptFolder folder_;
  const uint64_t identity_;
  const Layout& layout_;
  ThreadPool& pool_;
  ContentHash hash_;
};

}  // namespace

void PanelStore::Free::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t(kHugePage));
}

Result<PanelStore> PanelStore::open(const Checkpoint& checkpoint, const PanelOptions& options, ThreadPool& pool,
                                    Weights* weights) {
  PanelStore store;
  const Layout layout = plan(checkpoint.config(), weights);
  store.size_bytes_ = layout.size_bytes;
  if (layout.size_bytes == 0) return store;
  if (!options.folder.empty() && layout.size_bytes >= options.file_from_bytes) {
    PanelFile kept(options.folder, checkpoint, layout, pool);
    Result<MappedFile> file = kept.open(&store.path_);
    if (file.ok()) {
      store.file_ = std::move(*file);
      point_at(layout, store.file_.bytes().data() + kHeaderBytes);
      return store;
    }
    store.note_ = fmt::format("the weights are laid out in memory at each start, no file could be kept: {}",
                              file.error().message);
    store.path_.clear();
  }
  const size_t size = (static_cast<size_t>(layout.size_bytes) + kHugePage - 1) / kHugePage * kHugePage;
  auto* base = static_cast<std::byte*>(::operator new[](size, std::align_val_t(kHugePage)));
  store.memory_.reset(base);
  madvise(base, size, MADV_HUGEPAGE);  // fewer misses of the address cache; not being granted is no error
  for_each_task(tasks_of(layout), "laying out the weights", pool, [&](const Task& task, int) {
    turn_over(task, base + task.piece->offset + task.begin * task.piece->panel_bytes());
  });
  point_at(layout, base);
  return store;
}

}  // namespace westlake
