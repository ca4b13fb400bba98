#include "engine/text/jinja/parser.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/token_stream.h"

namespace sterna::jinja {
namespace {

constexpr int kMaxBlockNesting = 60;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : stream_(std::move(tokens)), expressions_(&stream_) {}

  StatusOr<Body> Run() {
    STERNA_ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (stream_.current().kind != Token::kEnd) return stream_.Unexpected("text or a tag");
    return body;
  }

 private:
  StatementPtr New(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = stream_.current().line;
    return statement;
  }

  // Statements up to a block tag with one of the names `ends`, whose name is then current; up to
  // the end of the template without any.
  StatusOr<Body> ParseBody(std::initializer_list<std::string_view> ends) {
    if (++nesting_ > kMaxBlockNesting) {
      return LineError(stream_.current().line, "blocks are nested too deeply");
    }
    const int opened = stream_.current().line;
    Body body;
    while (stream_.current().kind != Token::kEnd) {
      StatementPtr statement;
      if (stream_.current().kind == Token::kText) {
        statement = New(Statement::kText);
        statement->text = stream_.current().text;
        stream_.Advance();
      } else if (stream_.current().kind == Token::kVariableBegin) {
        statement = New(Statement::kOutput);
        stream_.Advance();
        STERNA_ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple());
        if (stream_.current().kind != Token::kVariableEnd) return stream_.Unexpected("'}}'");
        stream_.Advance();
      } else {
        stream_.Advance();  // the block's beginning
        for (const std::string_view end : ends) {
          if (!stream_.current().IsName(end)) continue;
          --nesting_;
          return body;
        }
        STERNA_ASSIGN_OR_RETURN(statement, ParseStatement());
      }
      body.push_back(std::move(statement));
    }
    if (ends.size() > 0) {
      return LineError(opened, "a block is not closed by '" + std::string(*(ends.end() - 1)) + "'");
    }
    --nesting_;
    return body;
  }

  Status ExpectBlockEnd() {
    if (stream_.current().kind != Token::kBlockEnd) return stream_.Unexpected("'%}'");
    stream_.Advance();
    return absl::OkStatus();
  }

  // The body and the end tag of a block that has no other parts.
  StatusOr<Body> ParseBlockBody(std::string_view end) {
    STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
    STERNA_ASSIGN_OR_RETURN(Body body, ParseBody({end}));
    stream_.Advance();
    STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
    return body;
  }

  StatusOr<StatementPtr> ParseStatement() {
    const Token token = stream_.current();
    if (token.kind != Token::kName) return stream_.Unexpected("a statement's name");
    const std::string& name = token.text;
    if (name == "if") return ParseIf();
    if (name == "for") return ParseFor();
    if (name == "set") return ParseSet();
    if (name == "macro") return ParseMacro();
    if (name == "with") return ParseWith();
    if (name == "filter") {
      StatementPtr statement = New(Statement::kFilter);
      stream_.Advance();
      STERNA_ASSIGN_OR_RETURN(statement->expression, expressions_.ParseFilterChain());
      STERNA_ASSIGN_OR_RETURN(statement->body, ParseBlockBody("endfilter"));
      return statement;
    }
    if (name == "generation") {
      StatementPtr statement = New(Statement::kScope);
      stream_.Advance();
      STERNA_ASSIGN_OR_RETURN(statement->body, ParseBlockBody("endgeneration"));
      return statement;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return LineError(token.line, "'" + name + "' stands outside a loop");
      StatementPtr statement = New(name == "break" ? Statement::kBreak : Statement::kContinue);
      stream_.Advance();
      STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
      return statement;
    }
    for (const char* known : {"call", "block", "extends", "include", "import", "from", "autoescape",
                              "trans", "do", "debug", "print"}) {
      if (name == known)
        return LineError(token.line, "the statement '" + name + "' is not supported");
    }
    return LineError(token.line, "unexpected '" + name + "'");
  }

  StatusOr<StatementPtr> ParseIf() {
    StatementPtr statement = New(Statement::kIf);
    while (true) {
      stream_.Advance();  // if or elif
      Statement::Branch branch;
      STERNA_ASSIGN_OR_RETURN(branch.condition, expressions_.ParseTuple(false));
      STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
      STERNA_ASSIGN_OR_RETURN(branch.body, ParseBody({"elif", "else", "endif"}));
      statement->branches.push_back(std::move(branch));
      if (!stream_.current().IsName("elif")) break;
    }
    if (stream_.SkipName("else")) {
      STERNA_ASSIGN_OR_RETURN(statement->otherwise, ParseBlockBody("endif"));
      return statement;
    }
    stream_.Advance();
    STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
    return statement;
  }

  StatusOr<StatementPtr> ParseFor() {
    StatementPtr statement = New(Statement::kFor);
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(statement->target, expressions_.ParseTarget(false));
    STERNA_RETURN_IF_ERROR(stream_.ExpectName("in"));
    STERNA_ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple(false));
    if (stream_.SkipName("if")) {
      STERNA_ASSIGN_OR_RETURN(statement->condition, expressions_.ParseExpression());
    }
    if (stream_.current().IsName("recursive")) {
      return LineError(statement->line, "a recursive loop is not supported");
    }
    STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
    ++loops_;
    STERNA_ASSIGN_OR_RETURN(statement->body, ParseBody({"else", "endfor"}));
    --loops_;
    if (stream_.SkipName("else")) {
      STERNA_ASSIGN_OR_RETURN(statement->otherwise, ParseBlockBody("endfor"));
      return statement;
    }
    stream_.Advance();
    STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
    return statement;
  }

  StatusOr<StatementPtr> ParseSet() {
    StatementPtr statement = New(Statement::kSet);
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(statement->target, expressions_.ParseTarget(true));
    if (stream_.SkipOperator("=")) {
      STERNA_ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple());
      STERNA_RETURN_IF_ERROR(ExpectBlockEnd());
      return statement;
    }
    statement->kind = Statement::kSetBlock;
    if (stream_.SkipOperator("|")) {
      STERNA_ASSIGN_OR_RETURN(statement->expression, expressions_.ParseFilterChain());
    }
    STERNA_ASSIGN_OR_RETURN(statement->body, ParseBlockBody("endset"));
    return statement;
  }

  StatusOr<StatementPtr> ParseMacro() {
    StatementPtr statement = New(Statement::kMacro);
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(statement->text, stream_.TakeName());
    STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("("));
    while (!stream_.current().IsOperator(")")) {
      if (!statement->parameters.empty()) STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.current().IsOperator(")")) break;
      Statement::Parameter parameter;
      STERNA_ASSIGN_OR_RETURN(parameter.name, stream_.TakeName());
      if (stream_.SkipOperator("=")) {
        STERNA_ASSIGN_OR_RETURN(parameter.default_value, expressions_.ParseExpression());
      } else if (!statement->parameters.empty() &&
                 statement->parameters.back().default_value != nullptr) {
        return LineError(statement->line, "a macro's parameter without a default follows one with");
      }
      statement->parameters.push_back(std::move(parameter));
    }
    STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    const int loops = std::exchange(loops_, 0);  // a loop around a macro is not the macro's
    STERNA_ASSIGN_OR_RETURN(statement->body, ParseBlockBody("endmacro"));
    loops_ = loops;
    return statement;
  }

  StatusOr<StatementPtr> ParseWith() {
    StatementPtr statement = New(Statement::kWith);
    stream_.Advance();
    while (stream_.current().kind != Token::kBlockEnd) {
      if (!statement->assignments.empty()) STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      STERNA_ASSIGN_OR_RETURN(ExpressionPtr target, expressions_.ParseTarget(false));
      STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("="));
      STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.ParseExpression());
      statement->assignments.emplace_back(std::move(target), std::move(value));
    }
    STERNA_ASSIGN_OR_RETURN(statement->body, ParseBlockBody("endwith"));
    return statement;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

StatusOr<Body> Parse(std::string_view source) {
  STERNA_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace sterna::jinja
