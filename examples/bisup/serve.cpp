// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>

#include "conversation.hpp"
#include "openai.hpp"
#include "request_queue.hpp"
#include "terminal.hpp"

namespace command {

namespace {

using bisup::Errc;
using bisup::Error;
using bisup::Result;
using openai::Route;

constexpr std::size_t most_bytes = 16 << 20;  // of a request

// Tells nobody by its time how much of the key was right.
bool same(std::string_view a, std::string_view b) {
  unsigned different = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    different |= static_cast<unsigned>(a[i] ^ b[i]);
  return different == 0;
}

void answer_with(httplib::Response& response, int status, const Json& json) {
  response.status = status;
  response.set_content(json.dump(-1, ' ', false, Json::error_handler_t::replace),
                       "application/json");
}

struct ServeCommand : ConversationOptions {
  std::string host = "127.0.0.1", api_key;
  int port = 8080, queue = 64;
  bisup::text::ContinuousBatchOptions batch;

  Result<void> run() const;
};

// What the handlers of all connections share.
class Service {
 public:
  Service(const ServeCommand& options, const Conversation& conversation, Result<void> chats,
          RequestQueue& requests)
      : options_(options),
        conversation_(conversation),
        chats_(std::move(chats)),
        queue_(requests),
        name_(std::filesystem::path(options.common.model).lexically_normal().filename().string()),
        started_(std::time(nullptr)) {}

  void add_routes(httplib::Server& server) {
    server.set_payload_max_length(most_bytes);
    // A connection that waits for its answer has a thread: as many as may wait, and some that are
    // told that too many do.
    const auto threads = static_cast<std::size_t>(options_.batch.together) +
                         static_cast<std::size_t>(options_.queue) + 4;
    server.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    server.set_tcp_nodelay(true);
    server.set_pre_routing_handler([this](const auto& request, auto& response) {
      if (allowed(request)) return httplib::Server::HandlerResponse::Unhandled;
      answer_with(response, 401, openai::error(401, "the API key is missing or wrong"));
      return httplib::Server::HandlerResponse::Handled;
    });
    server.set_error_handler([](const auto& request, auto& response) {
      if (!response.body.empty()) return;
      const char* what = response.status == 404   ? "there is no such route: "
                         : response.status == 413 ? "the request is too long: "
                                                  : "the request cannot be read: ";
      answer_with(response, response.status,
                  openai::error(response.status, what + request.method + " " + request.path));
    });
    server.set_exception_handler([](const auto&, auto& response, const std::exception_ptr&) {
      answer_with(response, 500, openai::error(500, "the server failed"));
    });
    server.Get("/health", [](const auto&, auto& response) {
      answer_with(response, 200, {{"status", "ok"}});
    });
    server.Get("/v1/models", [this](const auto&, auto& response) {
      const Json model = {
          {"id", name_}, {"object", "model"}, {"created", started_}, {"owned_by", "bisup"}};
      answer_with(response, 200, {{"object", "list"}, {"data", Json::array({model})}});
    });
    server.Post("/v1/chat/completions", [this](const auto& request, auto& response) {
      complete(Route::chat, request, response);
    });
    server.Post("/v1/completions", [this](const auto& request, auto& response) {
      complete(Route::completion, request, response);
    });
  }

 private:
  [[nodiscard]] bool allowed(const httplib::Request& request) const {
    if (options_.api_key.empty() || request.path == "/health") return true;
    return same(request.get_header_value("Authorization"), "Bearer " + options_.api_key);
  }

  Result<std::vector<int>> ids_of(Route route, const openai::Request& request) const {
    if (route == Route::completion) return conversation_.tokenizer().encode(request.prompt);
    if (!chats_) return chats_.error();
    return conversation_.ids_of(request.messages);
  }

  void complete(Route route, const httplib::Request& asked, httplib::Response& response) {
    const auto refuse = [&](const Error& error) {
      answer_with(response, openai::status(error), openai::error(error));
    };
    const std::uint64_t number = ++answers_;
    auto defaults = conversation_.generate_options();
    defaults.sampling.seed += number;  // the same question has another answer next time
    auto request = openai::read_request(asked.body, route, defaults);
    if (!request) return refuse(request.error());
    const auto ids = ids_of(route, *request);
    if (!ids) return refuse(ids.error());
    const auto rest = conversation_.after_prompt(*ids);
    auto pending = queue_.ask({rest.begin(), rest.end()}, std::move(request->generate));
    if (!pending) return refuse(pending.error());
    if (*pending == nullptr) {
      response.set_header("Retry-After", "1");
      return answer_with(response, 503, openai::error(503, "too many requests wait"));
    }
    const openai::Writer writer(route, name_, number, {ids->size(), ids->size() - rest.size()});
    if (request->stream) return stream(*pending, writer, route, request->stream_usage, response);
    const auto [text, reply] = (*pending)->whole();
    if (const auto error = failure(reply)) return refuse(*error);
    answer_with(response, 200, writer.whole(text, *reply));
  }

  static std::optional<Error> failure(const Result<bisup::text::Reply>& reply) {
    if (!reply) return reply.error();
    if (reply->generation.finish != bisup::text::Finish::interrupted) return {};
    return RequestQueue::ending();
  }

  static void stream(const std::shared_ptr<PendingReply>& pending, const openai::Writer& writer,
                     Route route, bool usage, httplib::Response& response) {
    const auto begun = std::make_shared<bool>(false);
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider(
        "text/event-stream",
        [=](std::size_t, httplib::DataSink& sink) {
          std::string events;
          if (!std::exchange(*begun, true) && route == Route::chat)
            events = openai::event(writer.first());
          const auto piece = pending->next();
          if (piece) {
            events += openai::event(writer.piece(*piece));
            return sink.write(events.data(), events.size());
          }
          const auto reply = pending->whole().reply;
          if (const auto error = failure(reply)) {
            events += openai::event(openai::error(*error));
          } else {
            events += openai::event(writer.last(*reply));
            if (usage) events += openai::event(writer.usage(*reply));
            events += openai::end_of_events;
          }
          const bool sent = sink.write(events.data(), events.size());
          sink.done();
          return sent;
        },
        [pending](bool) { pending->leave(); });
  }

  const ServeCommand& options_;
  const Conversation& conversation_;
  Result<void> chats_;
  RequestQueue& queue_;
  std::string name_;
  std::int64_t started_;
  std::atomic<std::uint64_t> answers_ = 0;
};

Result<void> ServeCommand::run() const {
  auto opened = Conversation::open(*this, false);
  if (!opened) return opened.error();
  Conversation& conversation = **opened;
  Result<void> chats = conversation.find_template();
  auto made = conversation.batch(batch);
  if (!made) return made.error();
  RequestQueue requests(std::move(made).value(), batch.together, queue);

  httplib::Server server;
  Service service(*this, conversation, chats, requests);
  service.add_routes(server);
  const int bound = port == 0 ? server.bind_to_any_port(host) : port;
  if (bound < 0 || (port != 0 && !server.bind_to_port(host, port))) {
    return Error{Errc::cannot_open, "cannot listen there", fmt::format("{}:{}", host, port)};
  }
  const std::string address = fmt::format("http://{}:{}", host, bound);
  if (common.json) {
    Json said = conversation.json();
    said["address"] = address;
    said["context"] = conversation.context();
    said["chat"] = static_cast<bool>(chats);
    print(said);
  } else {
    fmt::print("{} answers at {}/v1\n", common.model, address);
    if (!chats) fmt::print(stderr, "no chat: {}\n", chats.error().describe());
  }
  std::fflush(stdout);
  std::atomic<bool> ended = false;
  std::thread watch([&] {
    // A server that does not run yet cannot be stopped.
    while (!ended && !(server.is_running() && (interrupted() || requests.failure())))
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    requests.close();
    server.stop();
  });
  const bool listened = server.listen_after_bind();
  ended = true;
  watch.join();
  if (const auto failure = requests.failure()) std::rethrow_exception(failure);  // main() says what
  if (!listened && !interrupted()) {
    return Error{Errc::cannot_open, "stopped listening", address};
  }
  return {};
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  const auto options = std::make_shared<ServeCommand>();
  CLI::App* sub =
      add_subcommand(app, "serve", "Answers many clients at once, as OpenAI's API does over HTTP",
                     "bisup serve model.gguf --port 8080 --parallel 8", options->common);
  sub->add_option("--host", options->host, "the address to listen on; 0.0.0.0: all")
      ->capture_default_str();
  sub->add_option("--port", options->port, "0: one that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  sub->add_option("--api-key", options->api_key, "what clients must present; none: nothing")
      ->envname("BISUP_API_KEY");
  sub->add_option("--parallel", options->batch.together, "requests that are answered at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  sub->add_option("--queue", options->queue, "requests that may wait beside these")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->add_option("--kept", options->batch.kept,
                  "answered conversations whose keys and values stay for their next question")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  options->generate.sampling.temperature = 0.7f;
  options->generate.sampling.top_p = 0.95f;
  options->generate.tokens = 1024;
  add_conversation_options(*sub, *options);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
