// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which text do perplexity and compare read, and how much of it?

#include <CLI/CLI.hpp>
#include <bisup/evaluate/windows.hpp>
#include <string>

#include "command.hpp"

namespace command {

// What an error of measuring is about: the text if that is too short, else the model.
[[nodiscard]] inline std::string blamed(const bisup::Error& error, const std::string& text,
                                        const std::string& model) {
  return error.code == bisup::Errc::too_short ? text_name(text) : model;
}

void add_window_options(CLI::App& sub, std::string& text, bisup::WindowOptions& windows);

}  // namespace command
