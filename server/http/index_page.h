// What a browser sees at "/": where the API is.
#ifndef STERNA_SERVER_HTTP_INDEX_PAGE_H_
#define STERNA_SERVER_HTTP_INDEX_PAGE_H_

#include <string>
#include <string_view>

namespace sterna {

std::string IndexPage(std::string_view model_name);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_INDEX_PAGE_H_
