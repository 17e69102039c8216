// boosterd: command line, configuration, log, and then the server.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include "booster_version.h"
#include "daemon/config.h"
#include "daemon/control/mountinfo.h"
#include "daemon/control/privileged_helper.h"
#include "daemon/control/server.h"
#include "daemon/control/sockets.h"

namespace booster::daemon {
namespace {

constexpr int kUsage = 2;
constexpr int kFailed = 1;

struct Arguments {
  std::string config = kDefaultConfigFile;
  bool config_given = false;
  std::string socket;
  std::string admin_socket;
  std::string log_level;
};

int complain(const std::string& message, int code) {
  std::fprintf(stderr, "boosterd: %s\n", message.c_str());
  return code;
}

/// File, then command line.
Outcome<Config> configure(const Arguments& arguments) {
  auto config = load_config(arguments.config, arguments.config_given);
  if (!config) return config;
  const std::pair<const char*, const std::string&> overrides[] = {
      {"daemon.control_socket", arguments.socket},
      {"daemon.admin_socket", arguments.admin_socket},
      {"log.level", arguments.log_level},
  };
  for (const auto& [key, value] : overrides) {
    if (value.empty()) continue;
    if (const auto set = set_config_text(*config, key, value); !set) return Failure{set.error()};
  }
  return config;
}

void start_log(const Config& config) {
  auto logger = std::make_shared<spdlog::logger>("boosterd",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  // The journal has its own time stamps.
  logger->set_pattern(::isatty(STDERR_FILENO) != 0 ? "%Y-%m-%dT%H:%M:%S.%e level=%l %v"
                                                   : "level=%l %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  spdlog::set_level(spdlog::level::from_str(config.log_level));
}

/// Forks, so that no other thread may run yet.
control::Prepared prepare() {
  control::Prepared prepared;
  auto store = data::CacheStore::create();
  if (store) {
    prepared.cache_store = std::move(*store);
  } else {
    spdlog::warn("event=no-cache error=\"{}\"", store.error());
  }
  auto helper = std::make_shared<control::PrivilegedHelper>();
  const auto watch = helper->make_open_watch();
  // Without: nothing is boosted, since nobody could be held up who opens a file. That all groups
  // are in use may change.
  if (watch || watch.error().value() == EMFILE) {
    prepared.privileges = std::move(helper);
  } else {
    spdlog::warn("event=no-delegations error=\"fanotify: {}\"", watch.error().message());
  }
  return prepared;
}

/// Nothing after prepare() needs it, but the helper that it has started.
bool give_up_sys_admin() {
  const std::unique_ptr<_cap_struct, int (*)(void*)> capabilities(::cap_get_proc(), ::cap_free);
  const cap_value_t value = CAP_SYS_ADMIN;
  for (const cap_flag_t flag : {CAP_EFFECTIVE, CAP_PERMITTED, CAP_INHERITABLE}) {
    if (!capabilities || ::cap_set_flag(capabilities.get(), flag, 1, &value, CAP_CLEAR) != 0) {
      return false;
    }
  }
  return ::cap_set_proc(capabilities.get()) == 0;
}

int serve(const Arguments& arguments, const Config& config) {
  if (::geteuid() != 0) return complain("must be started by root", kFailed);
  start_log(config);
  ::umask(0027);
  // Sent to who has a lease on a file that is about to be opened for writing; the thread that is
  // meant by it hears it all the same, since it blocks it (gluster/lease_watch.cc).
  std::signal(SIGIO, SIG_IGN);
  control::Prepared prepared = prepare();
  if (!give_up_sys_admin()) return complain("cannot give up CAP_SYS_ADMIN", kFailed);
  control::Helpers helpers;  // forks: nothing has started a thread yet
  auto listeners = control::open_listeners(config);
  if (!listeners) return complain(listeners.error(), kFailed);
  auto mount_table = control::MountTable::open();
  if (!mount_table) {
    return complain("/proc/self/mountinfo: " + mount_table.error().message(), kFailed);
  }
  control::Server server(config, std::move(*listeners), std::move(*mount_table), helpers,
                         std::move(prepared), [arguments] { return configure(arguments); });
  server.run();
}

int run(int argc, char** argv) {
  Arguments arguments;
  bool version = false;
  bool print_config = false;
  bool check_config = false;
  CLI::App app("boosterd carries reads and writes of preloaded programs past FUSE to GlusterFS.");
  const auto* config_option =
      app.add_option("--config", arguments.config, "configuration file")->type_name("FILE");
  app.add_option("--socket", arguments.socket, "where preloaded programs connect")
      ->type_name("PATH");
  app.add_option("--admin-socket", arguments.admin_socket, "where boosterctl connects")
      ->type_name("PATH");
  app.add_option("--log-level", arguments.log_level, "error, warning, info or debug")
      ->type_name("LEVEL");
  app.add_flag("--version", version, "show the version");
  app.add_flag("--print-config", print_config, "show the default configuration, commented");
  app.add_flag("--check-config", check_config, "tell whether the configuration is good");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return complain(std::string(error.what()) + " ('boosterd --help' shows the options)", kUsage);
  }
  arguments.config_given = config_option->count() != 0;
  if (version) {
    std::printf("boosterd %s\n", BOOSTER_VERSION);
    return 0;
  }
  if (print_config) {
    std::fputs(default_config_text().c_str(), stdout);
    return 0;
  }
  const auto config = configure(arguments);
  if (!config) return complain(config.error(), kUsage);
  if (check_config) return 0;
  return serve(arguments, *config);
}

}  // namespace
}  // namespace booster::daemon

int main(int argc, char** argv) {
  try {
    return booster::daemon::run(argc, argv);
  } catch (const std::exception& e) {
    return booster::daemon::complain(e.what(), booster::daemon::kFailed);
  }
}
