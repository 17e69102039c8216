// When to ask, and where on a terminal to print. What a page looks like: stats_text, stats_json.
#include "ctl/watch.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "ctl/admin_client.h"
#include "ctl/output.h"
#include "ctl/stats_json.h"
#include "ctl/stats_text.h"

namespace booster::ctl {
namespace {

using Answer = Outcome<admin::Stats>;

/// A page that scrolls cannot be redrawn: cut at the terminal's lower edge, and lines at its right.
std::string fit_terminal(const std::string& page, const winsize& size) {
  if (size.ws_row < 2 || size.ws_col == 0) return page;
  std::string out;
  size_t at = 0;
  for (int row = 1; at < page.size(); ++row) {
    if (row == size.ws_row) return out + "...";
    const size_t end = page.find('\n', at);
    out += page.substr(at, std::min<size_t>(end - at, size.ws_col));
    out += '\n';
    at = end + 1;
  }
  return out;
}

/// Starts at the top and clears what is left below, which flickers less than clearing first.
Exit redraw(std::string page) {
  winsize size{};
  ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  page = fit_terminal(page, size);
  for (size_t at = 0; (at = page.find('\n', at)) != std::string::npos; at += 4) {
    page.replace(at, 1, "\x1b[K\n");
  }
  return print("\x1b[H" + page + "\x1b[J");
}

std::string page_of(const Answer& answer, const admin::Stats* before) {
  if (const auto* failure = std::get_if<Failure>(&answer)) return failure->message + '\n';
  return stats_text(std::get<admin::Stats>(answer), before);
}

Exit watch(AdminClient& client, const StatsOptions& options, Answer answer) {
  const bool terminal = !options.json && ::isatty(STDOUT_FILENO) == 1;
  std::optional<admin::Stats> before;
  auto next = std::chrono::steady_clock::now();
  while (true) {
    const auto* failure = std::get_if<Failure>(&answer);
    Exit printed = Exit::kOk;
    if (terminal) {
      printed = redraw(page_of(answer, before ? &*before : nullptr));
    } else if (failure) {
      complain(failure->message);
    } else if (options.json) {
      printed = print(json_text(stats_json(std::get<admin::Stats>(answer)), -1) + '\n');
    } else {
      printed = print(page_of(answer, before ? &*before : nullptr) + '\n');
    }
    if (printed != Exit::kOk) return printed;

    before.reset();
    if (!failure) before = std::get<admin::Stats>(std::move(answer));
    next = std::max(next + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                               std::chrono::duration<double>(*options.watch_seconds)),
                    std::chrono::steady_clock::now());
    std::this_thread::sleep_until(next);
    answer = client.stats();
  }
}

}  // namespace

Exit show_stats(const StatsOptions& options) {
  AdminClient client(options.admin_socket);
  Answer answer = client.stats();
  if (const auto* failure = std::get_if<Failure>(&answer)) {
    complain(failure->message);
    return failure->exit;
  }
  if (options.watch_seconds) {
    if (!options.json && ::isatty(STDOUT_FILENO) == 1) {
      const Exit cleared = print("\x1b[2J");
      if (cleared != Exit::kOk) return cleared;
    }
    return watch(client, options, std::move(answer));
  }
  const auto& stats = std::get<admin::Stats>(answer);
  return print(options.json ? json_text(stats_json(stats), 2) + '\n' : stats_text(stats));
}

}  // namespace booster::ctl
