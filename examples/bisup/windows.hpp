// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which text do perplexity and compare read, and how much of it?

#include <CLI/CLI.hpp>
#include <bisup/evaluate/windows.hpp>
#include <string>

namespace command {

void add_window_options(CLI::App& sub, std::string& text, bisup::WindowOptions& windows);

}  // namespace command
