// Times of files that a boosted program writes, as programs see them that decide by times: make,
// rsync, tar, cp and touch. They are those of the writes, whenever the writer is done with the
// file, and those that somebody else has set stay. Each test runs without booster, too.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <functional>
#include <iostream>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

/// Since 1970, as files have it.
using Time = nanoseconds;

/// What a program sees by name that does not open the file may be as old as what the kernel keeps
/// of what FUSE's client keeps.
constexpr milliseconds kAllSeen{2200};
/// How much later than the writer knew of it a brick may say that it had a write.
constexpr milliseconds kOnItsWay{500};
constexpr time_t kLongAgo = 1'000'000'000;

Time now() {
  return std::chrono::system_clock::now().time_since_epoch();
}

Time modified(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return seconds(status.st_mtim.tv_sec) + nanoseconds(status.st_mtim.tv_nsec);
}

std::string in_quotes(const std::string& text) {
  return "'" + text + "'";
}

/// A program without booster, by its output; fails if that does not end well.
std::string plainly(const std::string& script) {
  const RunResult result = shell(script, kPlain);
  EXPECT_EQ(result.status, 0) << script << ": " << result.out << result.err;
  return result.out + result.err;
}

class Times : public PolicyTest {
 protected:
  /// A file that a program has open for writing.
  struct Written {
    std::string path;
    std::unique_ptr<Puppet> writer;
    Time begun{0};  // the last write
    Time ended{0};
  };

  /// Twice: in programs without booster, and with it.
  void both_ways(const std::function<void(const RunOptions& options)>& scenario) {
    {
      SCOPED_TRACE("without booster");
      scenario(kPlain);
    }
    if (HasFailure()) return;
    SCOPED_TRACE("with booster");
    scenario({});
  }

  Written open_and_write(const std::string& path, const RunOptions& options) {
    Written file{path, std::make_unique<Puppet>(options)};
    EXPECT_EQ(file.writer->tell("open", "w", "rw+creat", path), "0");
    write(file, options);
    return file;
  }

  /// Four of them, for so long that everybody sees what was written.
  std::list<Written> four_written_and_seen(const ScratchDir& dir, const RunOptions& options) {
    std::list<Written> files;
    for (int i = 0; i < 4; ++i) {
      files.push_back(open_and_write(dir.file(std::to_string(i)), options));
      await_bricks(files.back());
    }
    std::this_thread::sleep_for(kAllSeen);
    return files;
  }

  /// Its last write, which is boosted.
  void write(Written& file, const RunOptions& options, uint64_t seed = 1) {
    if (options.preload) {
      until_boosted(daemon_, Moves::kWrites, [&] { write_once(file, seed); });
    } else {
      write_once(file, seed);
    }
  }
  static void write_once(Written& file, uint64_t seed) {
    const size_t length = paying(kLength);
    file.begun = now();
    EXPECT_EQ(file.writer->tell("pwrite", "w", 0, length, seed), std::to_string(length));
    file.ended = now();
  }

  /// Until the bricks have its last write. FUSE knows no more of that than before.
  static void await_bricks(Written& file) {
    EXPECT_EQ(file.writer->tell("fsync", "w"), "0");
    file.ended = now();
  }

  void expect_time_of_last_write(const Written& file, const std::string& when) const {
    const Time time = modified(file.path);
    EXPECT_GE(time, file.begun) << when << ", " << milliseconds_between(time, file.begun)
                                << " ms too early";
    EXPECT_LE(time, file.ended + kOnItsWay)
        << when << ", " << milliseconds_between(file.ended, time) << " ms too late";
  }

  static long milliseconds_between(Time a, Time b) {
    return static_cast<long>(std::chrono::duration_cast<milliseconds>(b - a).count());
  }

  static constexpr size_t kLength = 40 << 10;  // whole stripes of any volume
  Daemon daemon_;
};
BOOSTER_UNDER_EACH_POLICY(Times);

/// What a writer does, or others do, by which FUSE comes to know all of the file.
struct End {
  const char* name;
  std::function<void(Puppet& writer, const std::string& path)> make;
};

const std::vector<End>& ends() {
  static const std::vector<End> all = {
      {"close", [](Puppet& w, const auto&) { EXPECT_EQ(w.tell("close", "w", "close"), "0"); }},
      {"fstat", [](Puppet& w, const auto&) { EXPECT_NE(w.tell("fstat", "w"), "-1"); }},
      {"fsync and close",
       [](Puppet& w, const auto&) {
         EXPECT_EQ(w.tell("fsync", "w"), "0");
         EXPECT_EQ(w.tell("close", "w", "close"), "0");
       }},
      {"exit", [](Puppet& w, const auto&) { w.leave(); }},
      {"fork", [](Puppet& w, const auto&) { EXPECT_GT(std::stoi(w.tell("fork")), 0); }},
      {"exec", [](Puppet& w, const auto&) { EXPECT_EQ(w.tell("exec"), "ready"); }},
      {"kill",
       [](Puppet& w, const std::string& path) {
         w.child().signal(SIGKILL);
         EXPECT_EQ(w.child().wait().status, 128 + SIGKILL);
         forget(path);  // whose open waits until that is done
       }},
      {"an open by somebody else", [](Puppet&, const std::string& path) { forget(path); }},
  };
  return all;
}

TEST_P(Times, AFileHasTheTimeOfItsLastWriteHoweverLateItIsDoneWith) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    std::list<Written> files;
    for (size_t i = 0; i < ends().size(); ++i) {
      files.push_back(open_and_write(dir.file(std::to_string(i)), options));
      await_bricks(files.back());
    }
    std::this_thread::sleep_for(kAllSeen);
    auto file = files.begin();
    for (const End& end : ends()) {
      expect_time_of_last_write(*file, std::string("before ") + end.name);
      const Time before = modified(file->path);
      end.make(*file->writer, file->path);
      EXPECT_EQ(modified(file->path), before)
          << end.name << " changed it by " << milliseconds_between(before, modified(file->path))
          << " ms";
      ++file;
    }
  });
}

/// With -c it does not open the file, which would take it from booster before.
TEST_P(Times, WhatSomebodyElseSetsMeanwhileStays) {
  const std::vector<std::string> tools = {"touch -d @1000000000", "touch -c -d @1000000000",
                                          "touch -c -m -d @1000000000"};
  both_ways([&](const RunOptions& options) {
    const ScratchDir dir;
    struct Set {
      Written file;
      const End& end;
      const std::string& tool;
    };
    std::list<Set> files;
    for (const std::string& tool : tools) {
      for (const End& end : ends()) {
        const std::string path = dir.file(std::to_string(files.size()));
        files.push_back({open_and_write(path, options), end, tool});
        await_bricks(files.back().file);
      }
    }
    for (const auto& [file, end, tool] : files) plainly(tool + " " + in_quotes(file.path));
    for (auto& [file, end, tool] : files) {
      EXPECT_EQ(modified(file.path), seconds(kLongAgo)) << tool << ", before " << end.name;
      end.make(*file.writer, file.path);
      EXPECT_EQ(modified(file.path), seconds(kLongAgo)) << tool << ", " << end.name;
    }
  });
}

TEST_P(Times, AWriteAfterTheyWereSetCounts) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    for (const char* tool : {"touch -d @1000000000", "touch -c -d @1000000000"}) {
      Written file = open_and_write(dir.file(std::to_string(std::strlen(tool))), options);
      await_bricks(file);
      plainly(std::string(tool) + " " + in_quotes(file.path));
      write_once(file, 2);  // the kernel's, where the file was opened for it
      EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
      file.ended = now();  // on the bricks at the latest when it was closed
      expect_time_of_last_write(file, std::string("written after ") + tool);
    }
  });
}

/// Right after a write has returned it may be on its way to the bricks still, and overtake who sets
/// times by name. Nobody who opens the file for it is overtaken.
TEST_P(Times, WhoSetsThemRightAfterAWriteIsOvertakenSeldom) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    const int count = rounds();
    int overtaken = 0;
    Written file = open_and_write(dir.file("file"), options);
    for (int i = 0; i < count; ++i) {
      write(file, options, static_cast<uint64_t>(i));
      EXPECT_EQ(file.writer->tell("pwrite", "w", 0, kLength, i), std::to_string(kLength));
      const timespec times[2] = {{kLongAgo, 0}, {kLongAgo, 0}};
      EXPECT_EQ(::utimensat(AT_FDCWD, file.path.c_str(), times, 0), 0);
      EXPECT_NE(file.writer->tell("fstat", "w"), "-1");
      overtaken += modified(file.path) != seconds(kLongAgo);
    }
    std::cout << (options.preload ? "with" : "without") << " booster: of " << count
              << " times set by name right after a write, " << overtaken << " did not stay\n";
    if (!options.preload) {
      EXPECT_EQ(overtaken, 0);
    }
  });
}

// --- programs that decide by them ----------------------------------------------------------------

TEST_P(Times, MakeDoesWhatIsDueAndNothingElse) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    write_file(dir.file("Makefile"), "out: in\n\ttouch out\n");
    const std::string make = "make -C " + in_quotes(dir.path());
    const auto is_due = [&] { return shell(make + " -q", kPlain).status != 0; };
    Written file = open_and_write(dir.file("in"), options);
    await_bricks(file);
    plainly(make);
    EXPECT_FALSE(is_due());
    std::this_thread::sleep_for(milliseconds(20));
    write(file, options, 2);
    await_bricks(file);
    std::this_thread::sleep_for(kAllSeen);
    EXPECT_TRUE(is_due()) << "a write was not noticed";
    plainly(make);
    EXPECT_FALSE(is_due()) << "made a moment ago";
    EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
    EXPECT_FALSE(is_due()) << "the writer has closed it, but not written";

    EXPECT_EQ(file.writer->tell("open", "w", "rw", file.path), "0");
    write(file, options, 3);
    EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
    EXPECT_TRUE(is_due()) << "written and closed a moment ago";
  });
}

/// Of each file the next one is made, by programs under booster.
TEST_P(Times, WhatMakeHasMadeIsUpToDate) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    const std::string size = policy() == Policy::kSooner ? "1" : "16";
    write_file(dir.file("Makefile"),
               "all: d\na:\n\tdd if=/dev/urandom of=a bs=1M count=" + size +
                   " status=none\nb: a\n\tcp a b\nc: b\n\tcat b > c\nd: c\n\tdd if=c of=d bs=64K "
                   "status=none\n");
    const std::string make = "make -C " + in_quotes(dir.path());
    const uint64_t before = daemon_.boosted_write_bytes();
    const RunResult made = shell(make, options);
    EXPECT_EQ(made.status, 0) << made.out << made.err;
    if (options.preload) {
      EXPECT_GT(daemon_.boosted_write_bytes(), before) << kTooLittle;
    }
    EXPECT_EQ(shell(make + " -q", kPlain).status, 0) << plainly(make + " -n");
    EXPECT_EQ(shell(make + " -q", options).status, 0) << plainly(make + " -n");
  });
}

TEST_P(Times, RsyncCopiesWhatWasWrittenOnce) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    const ScratchDir copy(Lab::get().dir);
    std::list<Written> files = four_written_and_seen(dir, options);
    const std::string rsync =
        "rsync -ai " + in_quotes(dir.path() + "/") + " " + in_quotes(copy.path() + "/");
    plainly(rsync);
    EXPECT_EQ(plainly(rsync), "") << "copied a moment ago";
    for (Written& file : files) EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
    EXPECT_EQ(plainly(rsync), "") << "closed, but not written";
    for (Written& file : files) {
      EXPECT_EQ(file.writer->tell("open", "w", "rw", file.path), "0");
      write(file, options, 2);
      EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
    }
    EXPECT_NE(plainly(rsync), "") << "written and closed a moment ago";
    EXPECT_EQ(plainly("diff -r " + in_quotes(dir.path()) + " " + in_quotes(copy.path())), "");
  });
}

/// And under booster, onto the mount.
TEST_P(Times, RsyncOntoTheMountIsDoneWhenItIsDone) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    const ScratchDir from(Lab::get().dir);
    for (int i = 0; i < 4; ++i) {
      write_file(from.file(std::to_string(i)),
                 pattern(policy() == Policy::kSooner ? 300'000 : 24U << 20));
    }
    plainly("touch -d @1000000000.123456789 " + in_quotes(from.path()) + "/*");
    const std::string rsync =
        "rsync -ai " + in_quotes(from.path() + "/") + " " + in_quotes(dir.path() + "/");
    const uint64_t before = daemon_.boosted_write_bytes();
    const RunResult copied = shell(rsync, options);
    EXPECT_EQ(copied.status, 0) << copied.err;
    if (options.preload && policy() == Policy::kSooner) {
      EXPECT_GT(daemon_.boosted_write_bytes(), before) << kTooLittle;
    }
    EXPECT_EQ(plainly(rsync), "");
    EXPECT_EQ(shell(rsync, options).out, "");
  });
}

TEST_P(Times, TarAndCpTakeTimesAlongThatStay) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    const ScratchDir copy(Lab::get().dir);
    std::list<Written> files = four_written_and_seen(dir, options);
    const std::string tar = copy.path() + ".tar";
    plainly("cp -p " + in_quotes(dir.path()) + "/[01] " + in_quotes(copy.path()));
    EXPECT_EQ(plainly("tar --format=posix -C " + in_quotes(dir.path()) + " -cf " + in_quotes(tar) +
                      " 2 3"),
              "");
    for (Written& file : files) EXPECT_EQ(file.writer->tell("close", "w", "close"), "0");
    EXPECT_EQ(plainly("tar -C " + in_quotes(dir.path()) + " -df " + in_quotes(tar)), "");
    plainly("tar -C " + in_quotes(copy.path()) + " -xf " + in_quotes(tar));
    auto file = files.begin();
    for (int i = 0; i < 4; ++i, ++file) {
      // Copying asks for no more than that file systems have in common.
      EXPECT_EQ(modified(copy.file(std::to_string(i))), modified(file->path)) << i;
      expect_time_of_last_write(*file, "copied and closed");
    }
    ::unlink(tar.c_str());
  });
}

// --- while a file is written ---------------------------------------------------------------------

TEST_P(Times, WhoLooksByNameSeesAWriteSoon) {
  both_ways([this](const RunOptions& options) {
    const ScratchDir dir;
    Written file = open_and_write(dir.file("file"), options);
    std::vector<std::pair<Time, Time>> writes;  // begun, returned
    Time latest{0};
    Time slowest{0};  // look
    const auto end = steady_clock::now() + seconds(5);
    for (uint64_t i = 0; steady_clock::now() < end; ++i) {
      if (i % 10 == 0) {
        const Time begun = now();
        EXPECT_EQ(file.writer->tell("pwrite", "w", 0, kLength, i), std::to_string(kLength));
        writes.emplace_back(begun, now());
      }
      const Time looked = now();
      const Time seen = modified(file.path);
      slowest = std::max(slowest, now() - looked);
      // The first that is not seen has been there since it returned.
      const auto unseen = std::find_if(writes.begin(), writes.end(),
                                       [seen](const auto& w) { return w.first > seen; });
      if (unseen != writes.end()) latest = std::max(latest, looked - unseen->second);
      std::this_thread::sleep_for(milliseconds(20));
    }
    std::cout << (options.preload ? "with" : "without") << " booster: a write is seen by name "
              << milliseconds_between(Time(0), latest) << " ms late at most\n";
    EXPECT_LT(latest, 2 * (kAllSeen + slowest));  // the machine may have other things to do
  });
}

}  // namespace
}  // namespace booster::test
