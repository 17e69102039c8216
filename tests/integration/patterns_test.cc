// In whatever order a program reads, it sees what it would see without booster: while another
// program, on another host where there is one, writes the whole file anew again and again, and
// while the cache holds a tenth of it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <list>
#include <string>
#include <vector>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

constexpr const char* kBytes = "33554432";

/// Each page bears its version and its number, over and over. Usage: FILE BYTES LOG once|on; a line
/// of LOG is a version and when all of it had been written and closed. It ends when there is an
/// "end" of LOG.
constexpr const char* kWriter = R"(
import os, struct, sys, time
path, size, log, on = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == 'on'
version = sum(1 for line in open(log))
while True:
    version += 1
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    for at in range(0, size, 1 << 20):
        os.pwrite(fd, b''.join(struct.pack('<II', version, page) * 512
                               for page in range(at >> 12, (at + (1 << 20)) >> 12)), at)
    os.close(fd)
    with open(log, 'a') as closed: closed.write('%d %f\n' % (version, time.time()))
    if not on or os.path.exists(log + '.end'): break
    time.sleep(0.3)
)";

constexpr int kReaders = 3;

/// Usage: FILE BYTES LOG SECONDS PATTERN NUMBER. Two FUSE mounts show what was closed two seconds
/// ago: the kernel believes what it has for one, and the client's translators for another. Each
/// counts from when the answer came: LOG.slowest has how long each reader has waited at most.
constexpr const char* kReader = R"(
import mmap, os, random, struct, sys, time
path, size, log, seconds, pattern = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5]
number, shared = int(sys.argv[6]), os.open(log + '.slowest', os.O_RDWR)
slowest = memoryview(mmap.mmap(shared, os.fstat(shared).st_size)).cast('d')
# What the call returns, and the oldest version that it may show.
def call(what):
    asked = time.time()
    result = what()
    slowest[number] = max(slowest[number], time.time() - asked)
    closed_by = asked - 2.2 - 2 * max(slowest)
    lines = [line.split() for line in open(log).read().splitlines()]
    return result, max([int(v) for v, t in lines if float(t) < closed_by], default=1)
def check(data, at, version):
    assert len(data) > 0 and len(data) % 4096 == 0, 'short at %d' % at
    for page in range(0, len(data), 4096):
        words = {data[page:page + 8]}
        # A brick may be read in the middle of a write of the other host: FUSE shows such a page, too.
        if data[page:page + 4096] != data[page:page + 8] * 512:
            words = {data[word:word + 8] for word in range(page, page + 4096, 8)}
        for seen, number in (struct.unpack('<II', word) for word in words):
            assert number == (at + page) >> 12, 'page %d at %d' % (number, at + page)
            assert seen >= version, 'version %d at %d, %d was closed' % (seen, at + page, version)
def whole(fd, step):
    data = os.read(fd, step)
    while len(data) < step: data += os.read(fd, step - len(data))
    return data
def ordered(step):
    fd, _ = call(lambda: os.open(path, os.O_RDONLY))
    for at in range(0, size, step):
        data, version = call(lambda: whole(fd, step))
        check(data, at, version)
    os.close(fd)
def anywhere(offsets, step):
    fd, _ = call(lambda: os.open(path, os.O_RDONLY))
    for at in offsets:
        data, version = call(lambda: os.pread(fd, step, at))
        check(data, at, version)
    os.close(fd)
patterns = {
    'whole': lambda: ordered(size),
    'ordered-1m': lambda: ordered(1 << 20),
    'ordered-256k': lambda: ordered(256 << 10),
    'ordered-4k': lambda: ordered(4096),
    'backwards': lambda: anywhere(range(size - (1 << 20), -1, -(1 << 20)), 1 << 20),
    'strided': lambda: anywhere(range(0, size, 192 << 10), 64 << 10),
    'anywhere-4k': lambda: anywhere([random.randrange(size >> 12) << 12 for _ in range(4000)], 4096),
}
end, passes = time.time() + seconds, 0
while time.time() < end:
    patterns[pattern]()
    passes += 1
print(passes)
)";

struct Case {
  const char* name;
  const char* cache;  // its configuration
  bool eager;
};

/// A tenth of the data; what is evicted for others, and what is left to the kernel.
constexpr const char* kEvicting = "bytes = 3355443\nretain_bytes = 0";
constexpr const char* kFull = "bytes = 3355443";

class Patterns : public testing::TestWithParam<Case> {};

TEST_P(Patterns, AreServedAsByFuseWhileTheFileIsWrittenAnew) {
  const Daemon daemon(std::string("[cache]\n") + GetParam().cache + "\n");
  const ScratchDir dir;
  const std::string path = dir.file("data");
  const std::string log = Lab::get().dir + "/closed";
  const std::string seconds = std::to_string(rounds("seconds"));
  write_file(log, "");
  ::unlink((log + ".end").c_str());
  ASSERT_EQ(run({"python3", "-c", kWriter, path, kBytes, log, "once"}, kPlain).status, 0);
  std::vector<std::string> writer = {"python3", "-c", kWriter, path, kBytes, log, "on"};
  if (Lab::get().hosts > 1) {
    const std::vector<std::string> elsewhere = {"lab", "exec", "--host", "2", "--"};
    writer.insert(writer.begin(), elsewhere.begin(), elsewhere.end());
  }
  Child writing(writer, kPlain);
  for (const char* pattern : {"whole", "ordered-1m", "ordered-256k", "ordered-4k", "backwards",
                              "strided", "anywhere-4k"}) {
    const uint64_t before = daemon.boosted_read_bytes();
    std::list<Child> readers;
    write_file(log + ".slowest", std::string(kReaders * sizeof(double), '\0'));
    // Some of one kind share what is under way.
    for (int i = 0; i < kReaders; ++i) {
      readers.emplace_back(std::vector<std::string>{"python3", "-c", kReader, path, kBytes, log,
                                                    seconds, pattern, std::to_string(i)},
                           RunOptions{.eager = GetParam().eager});
    }
    for (Child& reader : readers) {
      const RunResult result = reader.wait();
      EXPECT_EQ(result.status, 0) << pattern << ": " << result.err;
    }
    // While a program on this host has it open for writing it is FUSE's.
    if (Lab::get().hosts > 1 && GetParam().eager) {
      EXPECT_GT(daemon.boosted_read_bytes(), before) << pattern << kTooLittle;
    }
  }
  write_file(log + ".end", "");
  const RunResult written = writing.wait();
  EXPECT_EQ(written.status, 0) << written.err;
}

INSTANTIATE_TEST_SUITE_P(, Patterns,
                         testing::Values(Case{"WithRoom", "bytes = 268435456", false},
                                         Case{"WithRoomSooner", "bytes = 268435456", true},
                                         Case{"WithATenthOfIt", kEvicting, false},
                                         Case{"WithATenthOfItSooner", kEvicting, true},
                                         Case{"WithTheKernelsHelp", kFull, false},
                                         Case{"WithTheKernelsHelpSooner", kFull, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace booster::test
