// boosterctl: the command line. What a command does is in the file of its name.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "booster_version.h"
#include "common/abi.h"
#include "ctl/admin_client.h"
#include "ctl/failure.h"
#include "ctl/output.h"
#include "ctl/run.h"
#include "ctl/units.h"
#include "ctl/watch.h"

namespace booster::ctl {
namespace {

constexpr const char* kAbout =
    "Shows and steers booster, which makes reads and writes on GlusterFS FUSE mounts fast for\n"
    "unchanged programs.";

constexpr const char* kExits =
    "Examples:\n"
    "  boosterctl run -- cp big.img /mnt/vol/    run a program with booster\n"
    "  boosterctl stats --watch                  see what is boosted, and what is not and why\n"
    "  boosterctl cache drop                     empty the page cache\n"
    "\n"
    "Exit status: 0 good; 1 boosterd answered with an error, or the output cannot be written;\n"
    "2 bad arguments; 3 boosterd is not running or may not be asked; 4 it does not answer.\n"
    "'run' ends with the program's status: see 'boosterctl run --help'.";

constexpr const char* kStatsHelp =
    "Counters run from the start of boosterd. 'boosted' bytes went between the program and the\n"
    "bricks through boosterd; 'left to the kernel' went through FUSE, with the reason.\n"
    "\n"
    "--json prints one object: the fields of the message Stats in admin.proto (installed with the\n"
    "documentation) under the same names, all of them, numbers as numbers, an enumeration as its\n"
    "name in lower case. Fields may be added; none changes its meaning. With --watch: one object "
    "a\n"
    "line. For example:\n"
    "  boosterctl stats --json | jq '.totals.read_bytes + .totals.write_bytes'";

constexpr const char* kRunHelp =
    "Needs no running boosterd: the program then uses FUSE as it would without booster. What is\n"
    "preloaded already (LD_PRELOAD) stays so, behind libbooster.so. Set-user-id programs and\n"
    "statically linked ones take no preloaded library; they run as ever.\n"
    "\n"
    "Exit status: the program's; 125 if boosterctl fails, 126 if PROGRAM cannot be executed, 127 "
    "if\n"
    "it is not found.";

constexpr double kWatchSeconds = 1;
/// A cache of a hundred GB takes its time.
constexpr std::chrono::seconds kDropWithin{60};
constexpr size_t kHelpColumn = 34;

/// CLI11 knows nothing of the program that follows.
class RunFormatter : public CLI::Formatter {
 public:
  RunFormatter() { column_width(kHelpColumn); }
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: boosterctl run [OPTIONS] [--] PROGRAM [ARGUMENTS]...\n";
  }
};

/// For `check`: empty if the text is good, else what is wrong with it.
std::string is_period(const std::string& text) {
  double seconds = 0;
  if (CLI::detail::lexical_cast(text, seconds) && seconds >= 0.1 && seconds <= 86400) return {};
  return fmt::format("must be a number of seconds from 0.1 to 86400, not '{}'", text);
}

int drop_cache(const std::string& admin_socket) {
  AdminClient client(admin_socket, kDropWithin);
  const auto dropped = client.drop_cache();
  if (const auto* failure = std::get_if<Failure>(&dropped)) {
    complain(failure->message);
    return static_cast<int>(failure->exit);
  }
  const auto bytes = static_cast<double>(std::get<uint64_t>(dropped));
  return static_cast<int>(print(fmt::format("{} dropped\n", bytes_text(bytes))));
}

int usage_error(const std::string& message, const std::string& command) {
  complain(
      fmt::format("{} (see 'boosterctl {}--help')", message, command.empty() ? "" : command + " "));
  return static_cast<int>(Exit::kUsage);
}

int main_with(std::vector<std::string> words) {
  // What follows "--" is a program's command line, in which nothing is ours.
  std::vector<std::string> program;
  bool separated = false;
  if (const auto mark = std::find(words.begin(), words.end(), "--"); mark != words.end()) {
    separated = true;
    program.assign(mark + 1, words.end());
    words.erase(mark, words.end());
  }

  CLI::App app(std::string(kAbout) + "\n", "boosterctl");
  app.footer(kExits);
  app.require_subcommand(1);
  app.get_formatter()->column_width(kHelpColumn);
  std::string admin_socket = common::kAdminSocket;
  app.add_option("--admin-socket", admin_socket,
                 fmt::format("Where boosterd listens for boosterctl (default: {})", admin_socket))
      ->type_name("PATH");
  app.set_version_flag("--version", "boosterctl " BOOSTER_VERSION);

  CLI::App* stats =
      app.add_subcommand("stats", "Show what is boosted, what is not and why, and what it costs");
  stats->footer(kStatsHelp);
  bool json = false;
  double watch_seconds = 0;
  stats->add_flag("--json", json, "For programs: JSON with the names of admin.proto");
  CLI::Option* watch =
      stats
          ->add_option("--watch", watch_seconds,
                       fmt::format("Show it every SECONDS (default {}), with rates, until Ctrl-C",
                                   kWatchSeconds))
          ->type_name("[SECONDS]")
          ->expected(0, 1)
          ->check(is_period);

  CLI::App* run_command = app.add_subcommand("run", "Run a program with booster");
  run_command->formatter(std::make_shared<RunFormatter>());
  run_command->footer(kRunHelp);
  run_command->prefix_command();
  RunOptions run_options;
  run_command->add_flag("--eager", run_options.eager,
                        "Engage a file at its first call, and wait for it: for tests and "
                        "benchmarks");
  run_command
      ->add_option("--logfile", run_options.logfile,
                   "What booster has to say about the program goes there (default: its standard "
                   "error)")
      ->type_name("FILE");

  CLI::App* cache_command = app.add_subcommand("cache", "Steer the page cache");
  cache_command->require_subcommand(1);
  CLI::App* drop_command = cache_command->add_subcommand(
      "drop", "Empty it: what programs read next comes from the bricks");

  CLI::App* version_command = app.add_subcommand("version", "Print the version");
  // After a command, too: `boosterctl stats --admin-socket PATH`.
  const auto commands = {stats, run_command, cache_command, drop_command, version_command};
  for (CLI::App* command : commands) command->fallthrough();
  run_command->fallthrough(false);

  const auto current = [&]() -> std::string {
    for (const CLI::App* command : {stats, run_command, cache_command, version_command}) {
      if (command->parsed()) return command->get_name();
    }
    return "";
  };
  try {
    std::reverse(words.begin(), words.end());  // CLI11 takes a vector from its end
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::string message = error.what();
    // CLI11 would only say that there is none.
    const std::vector<std::string> extras = app.remaining();
    if (current().empty() && !extras.empty()) {
      message = fmt::format("'{}' is no command", extras.front());
    }
    std::replace(message.begin(), message.end(), '\n', ' ');
    return usage_error(message, current());
  }

  if (run_command->parsed()) {
    run_options.command = run_command->remaining();
    auto& command = run_options.command;
    if (!command.empty() && command.front().starts_with('-')) {
      return usage_error(fmt::format("unknown option '{}'", command.front()), "run");
    }
    if (separated && !command.empty()) command.emplace_back("--");
    command.insert(command.end(), program.begin(), program.end());
    if (command.empty()) return usage_error("there is no program to run", "run");
    return run(run_options);
  }
  if (separated) return usage_error("'--' and a program are for 'run' only", current());
  if (version_command->parsed()) return static_cast<int>(print("boosterctl " BOOSTER_VERSION "\n"));
  if (drop_command->parsed()) return drop_cache(admin_socket);
  StatsOptions options{admin_socket, json, {}};
  if (watch->count() > 0) {
    // Without a value CLI11 stores 0, whatever the default was.
    options.watch_seconds = watch_seconds > 0 ? watch_seconds : kWatchSeconds;
  }
  return static_cast<int>(show_stats(options));
}

}  // namespace
}  // namespace booster::ctl

int main(int argc, char** argv) {
  try {
    return booster::ctl::main_with({argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& error) {
    booster::ctl::complain(error.what());
    return static_cast<int>(booster::ctl::Exit::kFailed);
  }
}
