// What boosterctl says: on the standard output with the errors that iostreams would swallow, and on
// the standard error in single lines.
#pragma once

#include <string>
#include <string_view>

#include "ctl/failure.h"

namespace booster::ctl {

/// Writes all of `text` to the standard output; on failure says why and returns kFailed. Without a
/// word if nobody reads any more: where SIGPIPE is not ignored, it has ended the process already,
/// as it does with every filter.
Exit print(std::string_view text);

/// "boosterctl: MESSAGE" on the standard error.
void complain(std::string_view message);

/// Text from elsewhere (paths, command names), safe for a terminal: control characters become '?'.
std::string printable(std::string_view text);

}  // namespace booster::ctl
