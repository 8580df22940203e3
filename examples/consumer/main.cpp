/* The installed library from C++: a context and a checked spec that free themselves; prints the
 * library's version.
 *
 *     c++ main.cpp $(pkg-config --cflags --libs attn)
 */
#include <attn/attn.h>

#include <iostream>
#include <memory>
#include <string>

struct release {
  void operator()(attn_context *context) const
  {
    attn_context_free(context);
  }
  void operator()(attn_program *program) const
  {
    attn_program_free(program);
  }
};

int main()
{
  const std::string spec = "attention full {\n  heads 2\n  dim 4\n}\n";
  attn_context *context = nullptr;
  if (attn_context_create(nullptr, &context) != ATTN_OK)
    return 1;
  const std::unique_ptr<attn_context, release> owned_context(context);

  char error[1024] = "";
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = error;
  options.error_size = sizeof(error);
  attn_program *program = nullptr;
  if (attn_compile(context, spec.data(), spec.size(), "full.attn", &options, &program) != ATTN_OK) {
    std::cerr << error << '\n';
    return 1;
  }
  const std::unique_ptr<attn_program, release> owned_program(program);
  if (attn_program_describe(program)->query_heads != 2)
    return 1;
  std::cout << attn_version() << '\n';
  return 0;
}
