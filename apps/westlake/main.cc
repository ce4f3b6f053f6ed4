// westlake: one binary, one file a subcommand.
#include <cstdio>
#include <new>

#include "westlake/command.h"

namespace {

// Memory is the one thing that the library takes by exception: a model that does not fit is the world's doing.
westlake::Status run(const westlake::Action& action) {
  try {
    return action();
  } catch (const std::bad_alloc&) {
    return westlake::make_error(westlake::Code::kExhausted,
                                "out of memory. Hint: a smaller model, quantisation or --ctx; westlake inspect says "
                                "what fits");
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace westlake;
  CLI::App app{"westlake: runs DeepSeek, Llama and Qwen checkpoints as published, on this machine alone"};
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "help of all subcommands");
  Action action;
  add_chat(app, &action);
  add_eval(app, &action);
  add_generate(app, &action);
  add_logits(app, &action);
  add_check(app, &action);
  add_tokenize(app, &action);
  add_train_tokenizer(app, &action);
  add_render(app, &action);
  add_inspect(app, &action);
  add_convert(app, &action);
  add_synth(app, &action);
  add_train(app, &action);
  add_finetune(app, &action);
  add_bench(app, &action);
  add_perplexity(app, &action);
  add_pull(app, &action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // 0: --help
  }
  const Status status = run(action);
  if (status.ok()) return 0;
  if (!status.error().message.empty()) std::fprintf(stderr, "westlake: %s\n", status.error().message.c_str());
  return status.error().code == Code::kCancelled ? 130 : 1;
}
