// Continues a text with a trained model, and says how well the model knows the text:
//
//   complete MODEL_FOLDER "Once upon a time"
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string_view>

#include "megabyte/megabyte.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: complete MODEL_FOLDER PROMPT\n");
    return 2;
  }
  try {
    megabyte::Model model(argv[1]);
    const std::string_view text = argv[2];
    const std::span prompt(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    std::printf("%.*s", static_cast<int>(text.size()), text.data());
    model.generate(prompt, {.bytes = 200, .temperature = 0.7}, [](std::uint8_t byte) {
      std::putchar(byte);
      return std::fflush(stdout) == 0;
    });
    if (!prompt.empty())
      std::printf("\n[the prompt: %.2f bits per byte]\n", model.bits_per_byte(prompt));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "complete: %s\n", error.what());
    return 1;
  }
}
