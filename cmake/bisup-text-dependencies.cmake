# SPDX-License-Identifier: Apache-2.0
# bisup_pcre2 and bisup_utf8proc, what bisup::text links. Debian ships both with pkg-config files only
# and vcpkg's Windows triplets without pkg-config, so both ways are tried. Nothing is defined for a
# library that is absent.
find_package(PkgConfig QUIET)

function(bisup_find_library name module header library)
  if(TARGET bisup_${name})
    return()
  endif()
  if(PkgConfig_FOUND)
    pkg_check_modules(bisup_${name} QUIET IMPORTED_TARGET GLOBAL ${module})
    if(bisup_${name}_FOUND)
      add_library(bisup_${name} INTERFACE IMPORTED GLOBAL)
      target_link_libraries(bisup_${name} INTERFACE PkgConfig::bisup_${name})
      return()
    endif()
  endif()
  find_path(bisup_${name}_include ${header})
  find_library(bisup_${name}_library NAMES ${library})
  mark_as_advanced(bisup_${name}_include bisup_${name}_library)
  if(bisup_${name}_include AND bisup_${name}_library)
    add_library(bisup_${name} UNKNOWN IMPORTED GLOBAL)
    set_target_properties(bisup_${name} PROPERTIES IMPORTED_LOCATION "${bisup_${name}_library}"
      INTERFACE_INCLUDE_DIRECTORIES "${bisup_${name}_include}")
  endif()
endfunction()

bisup_find_library(pcre2 libpcre2-8 pcre2.h pcre2-8)
bisup_find_library(utf8proc libutf8proc utf8proc.h utf8proc)
