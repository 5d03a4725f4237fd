#include "cli/train_options.h"

#include <fmt/format.h>

#include "base/error.h"
#include "data/byte_dataset.h"
#include "model/files.h"
#include "model/presets.h"

namespace megabyte::cli {
namespace {

constexpr const char* kDetails =
    R"(Data: files in sorted path order make one long sequence; windows of one context are drawn at random
from it. The last 5% of all bytes are held out, or --valid names the held-out data.

Data of a long context is best read in short windows first (--short-length): as many bytes a step, but
more places of the data, and less attention; the last steps then teach the model to look far back.

Learning rate: rises to --lr over --warmup steps (the preset's warm-up: at most a tenth of the run),
then falls to --final-lr times that at the end of the budget.

Checkpoints: training.safetensors in the --out folder is replaced as a whole, at the start, every
--save-every steps, at the end, and on SIGINT or SIGTERM after the step under way (a second signal
ends the program at once). model.safetensors and config.json follow it. metrics.jsonl has a line per
logged step: step, bytes, seconds, loss (nats per byte), bpb, lr, grad_norm, bytes_per_s, valid_bpb.

--resume continues what is in --out with the settings saved there, exactly as if it had never
stopped (same number of threads). The data must be the same. Beside it the original command line
may stand; only the budget (--steps, --bytes or --minutes; the schedule follows it), --lr and what
does not change the result may differ. --overwrite replaces what is in --out as soon as the new
run starts, after all its input was checked.)";

// A model that has learnt is not to be shaken as one that begins; the presets' rates are for those.
constexpr double kLearningRateFromAModel = 1e-3;

}  // namespace

void TrainOptions::add_to(CLI::App& command) {
  command.footer(kDetails);
  TrainSettings& s = given;
  const char* group = "Data";
  command
      .add_option("--data", s.data, "files, folders or quoted patterns of raw bytes to train on")
      ->group(group);
  command.add_option("--out", out, "folder of the model")->required()->group(group);
  command.add_option("--valid", s.valid, "held-out data (default: the last 5% of --data)")
      ->group(group);
  command
      .add_option(
          "--align", s.align,
          "windows begin at multiples of so many bytes (an image, a patch, an audio sample)")
      ->capture_default_str()
      ->group(group);
  command
      .add_flag("--end-of-document", end_of_document,
                "symbol 256 ends each document (each file, or each source of a file made by "
                "'megabyte data'), so that generation stops by itself")
      ->group(group);
  command.add_flag("--resume", resume, "continue the run in --out")->group(group);
  command.add_flag("--overwrite", overwrite, "replace the model in --out")
      ->excludes("--resume")
      ->group(group);

  group = "Model";
  command
      .add_option("--preset", preset,
                  "a model by name, from 'megabyte info --presets' (default quickstart)")
      ->group(group);
  command.add_option("--config", config, "a model by its config.json")->group(group);
  command
      .add_option("--from", from,
                  "folder of a trained model: begin with its shape and its values (learning rate "
                  "1e-3 unless --lr says another)")
      ->excludes("--config")
      ->group(group);
  command
      .add_option(
          "--set", assignments,
          "KEY=VALUE changes one key of the model, for example stages.1.layers=4 (repeatable)")
      ->take_all()
      ->group(group);
  command
      .add_option("--init-stddev", s.init_stddev,
                  "standard deviation of initial weights (default: the preset's)")
      ->group(group);
  command
      .add_option("--init", s.init,
                  "TENSOR=STDDEV is another one for the tensors with this part in their names, for "
                  "example from_parent=0.002 or stages.1.embed=0.1 (repeatable; default: the "
                  "preset's)")
      ->take_all()
      ->group(group);

  group = "Budget (one of them; default 10 minutes)";
  auto* steps = command.add_option("--steps", s.steps, "steps in all")
                    ->check(CLI::PositiveNumber)
                    ->group(group);
  auto* bytes =
      command
          .add_option("--bytes", s.bytes,
                      "bytes to train on in all, rounded up to whole steps; also 500kB, 10MB, 2GB")
          ->transform(CLI::AsSizeValue(true))
          ->group(group);
  auto* minutes = command.add_option("--minutes", s.minutes, "time in all")
                      ->check(CLI::PositiveNumber)
                      ->group(group);
  steps->excludes(bytes)->excludes(minutes);
  bytes->excludes(minutes);

  group = "Optimization";
  command.add_option("--batch", s.batch, "contexts in a batch (default: the preset's)")
      ->group(group);
  command.add_option("--accumulate", s.accumulate, "batches whose gradients make one step")
      ->capture_default_str()
      ->group(group);
  command
      .add_option(
          "--micro-batch", s.micro_batch,
          "contexts that go through the model at once, which bounds memory (default: --batch)")
      ->group(group);
  command
      .add_option("--short-length", s.short_length,
                  "staged training: windows of so many bytes, a divisor of the context, in the "
                  "first part of the run, with more of them in a step; 0: of the context "
                  "throughout (default: the preset's)")
      ->group(group);
  command.add_option("--short-part", s.short_part, "the part of the run with --short-length")
      ->capture_default_str()
      ->group(group);
  command.add_option("--lr", s.lr, "highest learning rate (default: the preset's)")->group(group);
  command.add_option("--warmup", s.warmup, "steps of warm-up (default: the preset's)")
      ->group(group);
  command.add_option("--schedule", s.schedule, "after warm-up: cosine, linear or constant")
      ->check(CLI::IsMember({"cosine", "linear", "constant"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--final-lr", s.final_lr, "learning rate at the end, as a fraction of --lr")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--stage-lr", s.stage_lr,
                  "factors of --lr for the stages, coarsest first, for example 1,2 (default: the "
                  "preset's)")
      ->delimiter(',')
      ->group(group);
  command
      .add_option("--weight-decay", s.weight_decay,
                  "AdamW's decoupled decay, of matrices and convolutions only")
      ->capture_default_str()
      ->group(group);
  command.add_option("--beta1", s.beta1, "AdamW's decay of the first moment")
      ->capture_default_str()
      ->group(group);
  command.add_option("--beta2", s.beta2, "AdamW's decay of the second moment")
      ->capture_default_str()
      ->group(group);
  command.add_option("--eps", s.eps, "AdamW's epsilon")->capture_default_str()->group(group);
  command.add_option("--clip", s.clip, "largest norm of the gradient; 0: no clipping")
      ->capture_default_str()
      ->group(group);
  command
      .add_option(
          "--dropout", s.dropout,
          "rate of dropout on residual branches: one of all stages, or one of each, coarsest "
          "first, for example 0.1,0 (default: the preset's)")
      ->delimiter(',')
      ->group(group);
  command.add_option("--seed", s.seed, "of initial weights, order of data and dropout")
      ->capture_default_str()
      ->group(group);

  group = "Checkpoints and output";
  command.add_option("--save-every", s.save_every, "steps between checkpoints")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--save-dtype", s.save_dtype, "element type of model.safetensors: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--log-every", s.log_every, "steps between lines of metrics.jsonl")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--valid-every", s.valid_every, "steps between validations; 0: only at the end")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--valid-bytes", s.valid_bytes,
                  "held-out bytes scored each time, always the same")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--json", json, "progress as JSON lines on stdout")->group(group);
  command.add_flag("--quiet", quiet, "print errors only")->excludes("--json")->group(group);

  command
      .add_flag("--checkpoint-activations", s.checkpoint_activations,
                "less memory: keep only each block's input and run the block again in backward (a "
                "third more work)")
      ->group("Machine");
  device.add_to(command, "default bf16 where the hardware multiplies it", true);
}

void TrainOptions::note_given(const CLI::App& command) {
  for_each_setting([&](const char* name, auto, bool) {
    const CLI::Option* option = command.get_option_no_throw(std::string("--") + name);
    if (option != nullptr && option->count() > 0) given_names.insert(name);
  });
  given.dtype = device.dtype;
}

void TrainOptions::apply(TrainingState& state) const {
  TrainSettings& s = state.settings;
  if (given_names.contains("steps") || given_names.contains("bytes") ||
      given_names.contains("minutes")) {
    s.steps = s.bytes = 0;  // one budget replaces another
    s.minutes = 0;
  }
  for_each_setting([&](const char* name, auto member, bool) {
    if (given_names.contains(name)) s.*member = given.*member;
  });
  for (auto* paths : {&s.data, &s.valid})  // so that --resume finds them from any folder
    for (std::string& path : *paths) path = std::filesystem::absolute(path).string();
  for (const std::string& assignment : assignments) set_key(state.config, assignment);
  if (end_of_document && !ends_documents(state.config.vocab_size))
    state.config.vocab_size = kEndOfDocument + 1;
  if (!assignments.empty() || end_of_document)
    validate(state.config, assignments.empty() ? "--end-of-document" : "--set");
  if (!given_names.contains("short-length")) fit_short_windows(s, state.config);
  validate(s);
}

TrainingState TrainOptions::new_run() const {
  const Preset& chosen = find_preset(preset.empty() ? "quickstart" : preset);
  TrainingState state;
  state.config = config.empty() ? chosen.config : load_config(config);
  state.settings = settings_of(chosen, config.empty() && from.empty());
  if (!from.empty()) {
    for (const char* name : {"init", "init-stddev"})
      if (given_names.contains(name))
        throw UsageError(
            fmt::format("--{} and --from: the values of {} are those to begin with", name, from));
    state.config = load_config(std::filesystem::path(from) / kConfigFile);
    state.settings.lr = kLearningRateFromAModel;
  }
  if (given_names.contains("warmup")) state.settings.warmup_limit = 1;
  state.settings.minutes = 10;
  apply(state);
  return state;
}

TrainingState TrainOptions::resumed_run(const TrainingState& saved) const {
  TrainingState state = saved;
  if (!config.empty())
    state.config = load_config(config);
  else if (!from.empty())
    state.config = load_config(std::filesystem::path(from) / kConfigFile);
  else if (!preset.empty())
    state.config = find_preset(preset).config;
  apply(state);
  check_same_run(saved, state);
  return state;
}

}  // namespace megabyte::cli
