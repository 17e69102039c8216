// Sends boosterd garbage from several processes of ordinary users at once, on the control socket,
// in the shared memory and on the admin socket, while an honest client of this program checks that
// it is served with the right bytes.
//
//   booster_fuzz SECONDS SEED DIRECTORY      DIRECTORY is on a GlusterFS mount, and empty
//
// Prints the seed, and in the end what was done. Exit status 0: the honest client was served all
// the while. Whether the daemon took harm is its own sanitizers' to tell. Root, in a lab.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "tests/hostile/attack.h"

namespace booster::test {
namespace {

using common::Op;

constexpr size_t kFileBytes = 2 << 20;  // large enough to be cached
constexpr int kWorkers = 4;

/// Counted by all processes.
struct Counts {
  std::atomic<uint64_t> connections{0};
  std::atomic<uint64_t> welcomes{0};
  std::atomic<uint64_t> past_engage{0};  // connections with at least one handle
  std::atomic<uint64_t> granted{0};
  std::atomic<uint64_t> answers{0};
  std::atomic<uint64_t> logged{0};  // writes that were answered
  std::atomic<uint64_t> packets{0};
  std::atomic<uint64_t> admin_packets{0};
};
Counts* counts = nullptr;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t next() { return engine_(); }
  uint32_t word() { return static_cast<uint32_t>(engine_()); }
  /// 0 .. n-1
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
  bool one_in(uint32_t n) { return below(n) == 0; }
  /// A number at which code likes to break, or any.
  uint64_t edge() {
    static constexpr std::array<uint64_t, 22> kEdges = {0,
                                                        1,
                                                        2,
                                                        3,
                                                        7,
                                                        8,
                                                        9,
                                                        4095,
                                                        4096,
                                                        4097,
                                                        (1 << 20) - 1,
                                                        1 << 20,
                                                        (1 << 20) + 1,
                                                        0x7fffffff,
                                                        0x80000000,
                                                        0xffffffff,
                                                        0x100000000,
                                                        1ULL << 62,
                                                        0x7fffffffffffffff,
                                                        0x8000000000000000,
                                                        0xfffffffffffffff0,
                                                        0xffffffffffffffff};
    if (one_in(3)) return next() >> below(64);
    return kEdges[below(kEdges.size())];
  }
  std::string bytes(size_t size) {
    std::string text(size, '\0');
    for (char& byte : text) byte = static_cast<char>(engine_());
    return text;
  }

 private:
  std::mt19937_64 engine_;
};

/// The same bytes for a file of the same name, in every process.
std::string content(uint64_t seed) {
  Random random(seed);
  return random.bytes(kFileBytes);
}

// --- the hostile -------------------------------------------------------------------------

/// Descriptors of all kinds to send along and to name.
class Pool {
 public:
  Pool(const std::string& dir, Random& random) : random_(random) {
    const auto add = [this](int fd) {
      if (fd >= 0) all_.emplace_back(fd);
    };
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
      add(::open((dir + "/common").c_str(), flags | O_CLOEXEC));
      add(::open((dir + "/common").c_str(), O_PATH | O_CLOEXEC));
    }
    add(::open((dir + "/pattern").c_str(), O_RDONLY | O_CLOEXEC));
    add(::open((dir + "/pattern").c_str(), O_PATH | O_CLOEXEC));
    add(::open(dir.c_str(), O_PATH | O_CLOEXEC));
    add(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
    add(::open("/dev/null", O_RDWR | O_CLOEXEC));
    add(::eventfd(0, EFD_CLOEXEC));
    add(::epoll_create1(EPOLL_CLOEXEC));
    add(::memfd_create("fuzz", MFD_CLOEXEC));
    int pair[2];
    if (::pipe2(pair, O_CLOEXEC) == 0) add(pair[0]), add(pair[1]);
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
      add(pair[0]), add(pair[1]);
    }
  }
  int any() { return all_[random_.below(static_cast<uint32_t>(all_.size()))].get(); }
  std::vector<int> some() {
    static constexpr std::array<uint32_t, 6> kCounts = {0, 0, 1, 1, 2, 253};
    std::vector<int> chosen(kCounts[random_.below(kCounts.size())]);
    for (int& fd : chosen) fd = any();
    return chosen;
  }

 private:
  Random& random_;
  std::vector<Fd> all_;
};

/// One connection of a hostile client, from connect to its end.
class Attack {
 public:
  Attack(const std::string& dir, int worker, Random& random, Pool& pool)
      : dir_(dir),
        own_(dir + "/worker" + std::to_string(worker)),
        random_(random),
        pool_(pool),
        client_(common::kControlSocket) {
    const timeval patience{5, 0};
    ::setsockopt(client_.socket(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    client_.patience = milliseconds(500);
    ++counts->connections;
  }

  void run() {
    if (random_.one_in(8)) {
      for (uint32_t i = random_.below(5); i > 0; --i) send_garbage();
      return;
    }
    if (client_.hello()) return;
    ++counts->welcomes;
    if (!random_.one_in(8)) engage_by_the_book();
    if (random_.one_in(2)) engage_to_write();
    // Most begin with what an honest client does, so that there is something to break.
    for (uint32_t i = random_.below(30); i > 0 && !client_.hung_up(); --i) valid_request();
    for (uint32_t i = random_.below(60); i > 0 && !client_.hung_up(); --i) act();
  }

 private:
  void engage_by_the_book() {
    bool one = false;
    for (uint32_t i = 1 + random_.below(4); i > 0; --i) {
      const int flags = std::array{O_RDONLY, O_WRONLY, O_RDWR}[random_.below(3)];
      const bool pattern = flags == O_RDONLY && random_.one_in(2);
      const int fd = ::open((dir_ + (pattern ? "/pattern" : "/common")).c_str(), flags | O_CLOEXEC);
      if (fd < 0) continue;
      const Fd file(fd);
      const uint32_t slot = random_.one_in(4) ? random_.below(common::kHandleSlots) : i;
      const uint32_t generation = random_.one_in(4) ? random_.word() : 1;
      client_.engage_begin(fd, slot, generation);
      if (random_.one_in(6)) continue;  // does not wait
      if (outcome(client_, slot, generation, seconds(5)).rfind("granted", 0) != 0) continue;
      ++counts->granted;
      one = true;
      handles_.push_back({slot, generation});
    }
    if (one) ++counts->past_engage;
  }

  /// A file that nobody else has open, so that it can be delegated.
  void engage_to_write() {
    const int fd = ::open(own_.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    own_file_ = Fd(fd);
    const HandleName handle{10 + random_.below(10), random_.word()};
    client_.engage_begin(fd, handle.slot, handle.generation);
    if (outcome(client_, handle.slot, handle.generation, seconds(5)) != "granted rw") return;
    ++counts->granted;
    writable_ = handle;
    handles_.push_back(handle);
  }

  void valid_write() {
    if (!writable_) return valid_request();
    const std::string bytes(1 + random_.below(65536), static_cast<char>(random_.word()));
    const uint32_t number =
        client_.log(writable_->slot, writable_->generation, random_.below(kFileBytes), bytes);
    if (random_.one_in(3)) return;
    if (client_.wait_logged(client_.log_of(writable_->slot), number, milliseconds(200))) {
      ++counts->logged;
    }
  }

  void mutated_record() {
    common::LogRecord record{random_.below(20), 1, random_.below(kFileBytes),
                             1 + random_.below(65536), random_.below(common::kLogBytes - 65536)};
    uint32_t log = random_.one_in(8) ? random_.below(common::kLogs) : 0;
    if (writable_) {
      log = client_.log_of(writable_->slot);
      record.slot = writable_->slot;
      record.generation = writable_->generation;
    }
    switch (random_.below(7)) {
      case 0: record.slot = static_cast<uint32_t>(random_.edge()); break;
      case 1: record.generation = static_cast<uint32_t>(random_.edge()); break;
      case 2: record.length = static_cast<uint32_t>(random_.edge()); break;
      case 3: record.place = static_cast<uint32_t>(random_.edge()); break;
      case 4: log = random_.below(common::kLogs); break;
      case 5: break;
      default: record.offset = random_.edge(); break;
    }
    const uint32_t number = client_.put_record(log, record);
    if (random_.one_in(8)) {
      client_.publish_records(log, number + static_cast<uint32_t>(random_.edge()));
    }
    if (random_.one_in(8)) client_.memory().logs[log].head.abandoned.store(1);
    client_.ring();
  }

  void valid_request() {
    if (handles_.empty()) return;
    const auto& handle = handles_[random_.below(static_cast<uint32_t>(handles_.size()))];
    const uint32_t lane = random_.below(common::kLanes);
    // Busy already: the next would be a lie, for which there is another act.
    if (client_.memory().replies[lane].completed.load(std::memory_order_acquire) !=
        client_.memory().requests[lane].submitted.load(std::memory_order_relaxed)) {
      return;
    }
    const bool readable = (client_.slot(handle.slot).flags & common::kHandleReadable) != 0;
    const bool delegated = writable_ && writable_->slot == handle.slot;
    if (delegated && random_.one_in(2)) {
      client_.submit(lane, random_.one_in(2) ? Op::kSync : Op::kDataSync, handle.slot,
                     handle.generation, 0, 0);
    } else if (readable) {
      client_.submit(lane, Op::kRead, handle.slot, handle.generation, random_.below(kFileBytes),
                     1 + random_.below(65536));
    } else {
      return;
    }
    if (!random_.one_in(3) && answer(client_, lane, milliseconds(200))) ++counts->answers;
  }

  void mutated_request() {
    const uint32_t lane = random_.below(common::kLanes);
    common::LaneRequest& request = client_.memory().requests[lane];
    if (!handles_.empty()) {
      const auto& handle = handles_[random_.below(static_cast<uint32_t>(handles_.size()))];
      constexpr std::array kOps{Op::kRead, Op::kFill, Op::kSync, Op::kDataSync, Op::kStream};
      request.op = static_cast<uint32_t>(kOps[random_.below(kOps.size())]);
      request.slot = handle.slot;
      request.generation = handle.generation;
      const bool sync = common::is_sync(static_cast<Op>(request.op));
      request.length = sync ? 0 : 1 + random_.below(4096);
      request.offset = sync ? 0 : random_.below(kFileBytes);
      request.delegation = sync ? client_.memory().slots[handle.slot].delegation.load() : 0;
      request.ahead = common::looks_ahead(static_cast<Op>(request.op)) ? random_.below(1 << 20) : 0;
    }
    switch (random_.below(7)) {
      case 6: request.delegation = static_cast<uint32_t>(random_.edge()); break;
      case 0: request.op = static_cast<uint32_t>(random_.edge()); break;
      case 1: request.slot = static_cast<uint32_t>(random_.edge()); break;
      case 2: request.generation = static_cast<uint32_t>(random_.edge()); break;
      case 3: request.length = static_cast<uint32_t>(random_.edge()); break;
      case 4: request.ahead = static_cast<uint32_t>(random_.edge()); break;
      default: request.offset = random_.edge(); break;
    }
    const uint32_t step = random_.one_in(8) ? static_cast<uint32_t>(random_.edge()) : 1;
    request.submitted.fetch_add(step, std::memory_order_release);
    client_.ring();
  }

  void garbage_in_memory() {
    auto* bytes = reinterpret_cast<unsigned char*>(&client_.memory());
    const size_t control = offsetof(common::SessionMemory, payload);
    size_t at = 0;
    size_t size = 0;
    switch (random_.below(5)) {
      case 4:  // around the newest records
        at = offsetof(common::SessionMemory, logs) + random_.below(1024);
        size = 1 + random_.below(256);
        break;
      case 0:  // one word
        at = random_.below(static_cast<uint32_t>(control));
        size = 1 + random_.below(8);
        break;
      case 1:  // around the lanes
        at = offsetof(common::SessionMemory, requests) + random_.below(1024);
        size = 1 + random_.below(256);
        break;
      case 2:  // everything but the payload
        size = control;
        break;
      default:  // anywhere
        at = random_.below(static_cast<uint32_t>(common::kSessionBytes - 65536));
        size = 1 + random_.below(65536);
        break;
    }
    const bool zeroes = random_.one_in(4);
    for (size_t i = 0; i < size; ++i) {
      bytes[at + i] = zeroes ? 0 : static_cast<unsigned char>(random_.next());
    }
    client_.ring();
  }

  void take_pages_away() {
    const auto at = static_cast<off_t>(random_.below(common::kSessionBytes)) & ~off_t{4095};
    const off_t size = 4096 * (1 + static_cast<off_t>(random_.below(512)));
    ::fallocate(client_.memory_fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, size);
    if (random_.one_in(4)) (void)!::ftruncate(client_.memory_fd(), size);
  }

  void send(const std::string& bytes, const std::vector<int>& descriptors) {
    // Kernels that refuse descriptors for the daemon refuse the packet.
    if (!send_packet(client_.socket(), bytes, descriptors, MSG_DONTWAIT)) {
      send_packet(client_.socket(), bytes, {}, MSG_DONTWAIT);
    }
    ++counts->packets;
  }
  void send_garbage() { send(random_.bytes(random_.below(600)), pool_.some()); }

  void send_message() {
    control::ToDaemon message;
    const auto edge32 = [this] { return static_cast<uint32_t>(random_.edge()); };
    std::vector<int> descriptors;
    switch (random_.below(4)) {
      case 0:
        message.mutable_hello()->set_abi_version(random_.one_in(2) ? common::kAbiVersion
                                                                   : edge32());
        break;
      case 1:
        message.mutable_release()->set_slot(handles_.empty() ? edge32() : handles_[0].slot);
        message.mutable_release()->set_generation(handles_.empty() ? edge32()
                                                                   : handles_[0].generation);
        break;
      default: {
        const int fd = pool_.any();
        message =
            client_.engage_message(random_.below(common::kHandleSlots), random_.word(), fd, fd);
        if (random_.one_in(4)) message.mutable_engage()->set_fd_number(edge32());
        if (random_.one_in(8)) message.mutable_engage()->set_slot(edge32());
        if (random_.one_in(8)) message.mutable_engage()->set_nonce(random_.next());
        if (random_.one_in(4)) descriptors = pool_.some();
        break;
      }
    }
    std::string bytes = message.SerializeAsString();
    if (random_.one_in(2) && !bytes.empty()) {
      for (uint32_t i = 1 + random_.below(3); i > 0; --i) {
        bytes[random_.below(static_cast<uint32_t>(bytes.size()))] ^=
            static_cast<char>(1U << random_.below(8));
      }
      if (random_.one_in(4)) bytes.resize(random_.below(static_cast<uint32_t>(bytes.size()) + 1));
      if (random_.one_in(4)) bytes += random_.bytes(random_.below(40));
    }
    send(bytes, descriptors);
  }

  void act() {
    switch (random_.below(20)) {
      case 0:
      case 1: mutated_request(); break;
      case 2: garbage_in_memory(); break;
      case 3:
        for (uint32_t i = random_.below(50); i > 0; --i) client_.ring();
        break;
      case 4: send_garbage(); break;
      case 5:
      case 6: send_message(); break;
      case 7: take_pages_away(); break;
      case 8: std::this_thread::sleep_for(std::chrono::microseconds(random_.below(3000))); break;
      case 9:
        if (!handles_.empty()) {
          client_.release(handles_.back().slot, handles_.back().generation);
          if (random_.one_in(2)) handles_.pop_back();
        }
        break;
      case 10:
        if (random_.one_in(4)) ::shutdown(client_.socket(), static_cast<int>(random_.below(3)));
        break;
      case 11:
      case 12: mutated_record(); break;
      case 13:
      case 14:
      case 15: valid_write(); break;
      default: valid_request(); break;
    }
  }

  struct HandleName {
    uint32_t slot;
    uint32_t generation;
  };
  const std::string& dir_;
  const std::string own_;
  Random& random_;
  Pool& pool_;
  DaemonClient client_;
  std::vector<HandleName> handles_;
  Fd own_file_;
  std::optional<HandleName> writable_;  // of own_file_
};

/// Some connections of a user that nobody has seen before.
void live(const std::string& dir, int worker, uint64_t seed) {
  Random random(seed);
  become_user(20'000 + random.below(40'000));
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(20);
  Pool pool(dir, random);
  for (uint32_t i = 1 + random.below(20); i > 0; --i) {
    try {
      Attack(dir, worker, random, pool).run();
    } catch (const std::exception&) {
      // Hung up while it spoke: the next one.
    }
  }
}

[[noreturn]] void attack_until(Clock::time_point end, const std::string& dir, int worker,
                               uint64_t seed) {
  Random random(seed);
  while (Clock::now() < end) {
    const uint64_t life_seed = random.next();
    const pid_t life = ::fork();
    if (life == 0) {
      live(dir, worker, life_seed);
      ::_exit(0);
    }
    ::waitpid(life, nullptr, 0);
  }
  ::_exit(0);
}

[[noreturn]] void attack_admin_until(Clock::time_point end, uint64_t seed) {
  Random random(seed);
  while (Clock::now() < end) {
    const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, common::kAdminSocket);
    const timeval patience{0, 20'000};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      continue;
    }
    for (uint32_t i = random.below(8); i > 0; --i) {
      admin::Request request;
      request.mutable_stats();
      std::string body =
          random.one_in(2) ? request.SerializeAsString() : random.bytes(random.below(200));
      const uint32_t size =
          random.one_in(4) ? random.word() >> random.below(32) : static_cast<uint32_t>(body.size());
      const uint32_t length = htonl(size);
      body.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
      if (random.one_in(4)) body.resize(random.below(static_cast<uint32_t>(body.size()) + 1));
      ::send(socket.get(), body.data(), body.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      ++counts->admin_packets;
      char answer[256];
      if (random.one_in(2)) (void)!::recv(socket.get(), answer, sizeof answer, 0);
    }
    // The daemon's pumps are asked for every answer.
    std::this_thread::sleep_for(milliseconds(2));
  }
  ::_exit(0);
}

// --- the honest --------------------------------------------------------------------------

/// Reads and writes as the shim does; what was wrong, or "".
std::string serve_until(Clock::time_point end, const std::string& dir, uint64_t seed,
                        uint64_t& served) {
  Random random(seed);
  const std::string pattern = content(1);
  std::string own = content(2);
  const Fd pattern_file(dir + "/pattern", O_RDONLY);
  const Fd own_file(dir + "/own", O_RDWR);
  while (Clock::now() < end) {
    const auto client = new_session();
    const std::string readable = engage(*client, pattern_file.get(), 0);
    if (readable != "granted r") return "an honest reader was answered: " + readable;
    const std::string writable = engage(*client, own_file.get(), 1);
    if (writable != "granted rw") return "an honest writer was answered: " + writable;
    for (int i = 0; i < 200 && Clock::now() < end; ++i) {
      const uint32_t offset = random.below(kFileBytes - 16384);
      const uint32_t length = 1 + random.below(16384);
      if (read_through(*client, offset, length, 0) != pattern.substr(offset, length)) {
        return "an honest client read wrong bytes";
      }
      const std::string bytes = random.bytes(length);
      const std::string put = write_through(*client, offset, bytes, 1);
      if (put != std::to_string(length) + " bytes") return "an honest write was answered: " + put;
      own.replace(offset, length, bytes);
      const uint32_t from = random.below(kFileBytes - 16384);
      if (read_through(*client, from, 16384, 1, 1, 2) != own.substr(from, 16384)) {
        return "an honest client did not read what it had written";
      }
      served += 3;
    }
    if (!ask_stats()) return "the admin socket does not answer";
  }
  return "";
}

void create(const std::string& path, const std::string& bytes, mode_t mode) {
  const Fd file(path, O_RDWR | O_CREAT | O_TRUNC, mode);
  ::fchmod(file.get(), mode);
  if (::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    throw std::runtime_error("write " + path);
  }
}

int fuzz(int for_seconds, uint64_t seed, const std::string& dir) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  void* shared =
      ::mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  counts = new (shared) Counts;
  create(dir + "/pattern", content(1), 0644);
  create(dir + "/own", content(2), 0600);
  create(dir + "/common", content(3), 0666);
  for (int i = 0; i < kWorkers; ++i) create(dir + "/worker" + std::to_string(i), content(4), 0666);

  const auto end = Clock::now() + seconds(for_seconds);
  Random random(seed);
  std::vector<pid_t> workers;
  for (int i = 0; i <= kWorkers; ++i) {
    const uint64_t worker_seed = random.next();
    const pid_t worker = ::fork();
    if (worker == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (i == kWorkers) attack_admin_until(end, worker_seed);
      attack_until(end, dir, i, worker_seed);
    }
    workers.push_back(worker);
  }
  uint64_t served = 0;
  std::string wrong;
  try {
    wrong = serve_until(end, dir, random.next(), served);
  } catch (const std::exception& e) {
    wrong = e.what();
  }
  if (!wrong.empty()) {
    for (const pid_t worker : workers) ::kill(worker, SIGKILL);
  }
  for (const pid_t worker : workers) ::waitpid(worker, nullptr, 0);

  // Nobody had a right to write to it.
  std::string pattern(kFileBytes + 1, '\0');
  const Fd file(dir + "/pattern", O_RDONLY);
  pattern.resize(static_cast<size_t>(
      std::max<ssize_t>(0, ::pread(file.get(), pattern.data(), pattern.size(), 0))));
  if (pattern != content(1)) wrong += " A read-only file was changed.";

  std::printf(
      "connections %llu welcomes %llu past_engage %llu granted %llu answers %llu logged %llu "
      "packets %llu admin_packets %llu served %llu\n",
      static_cast<unsigned long long>(counts->connections.load()),
      static_cast<unsigned long long>(counts->welcomes.load()),
      static_cast<unsigned long long>(counts->past_engage.load()),
      static_cast<unsigned long long>(counts->granted.load()),
      static_cast<unsigned long long>(counts->answers.load()),
      static_cast<unsigned long long>(counts->logged.load()),
      static_cast<unsigned long long>(counts->packets.load()),
      static_cast<unsigned long long>(counts->admin_packets.load()),
      static_cast<unsigned long long>(served));
  if (wrong.empty()) return 0;
  std::printf("%s\n", wrong.c_str());
  return 1;
}

}  // namespace
}  // namespace booster::test

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: booster_fuzz SECONDS SEED DIRECTORY\n");
    return 2;
  }
  try {
    return booster::test::fuzz(std::atoi(argv[1]), std::strtoull(argv[2], nullptr, 10), argv[3]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "booster_fuzz: %s\n", e.what());
    return 2;
  }
}
