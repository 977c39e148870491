#!/bin/sh
# Does what the path says.
case $PATH_INFO in
/echo) exec cat ;;
/env) exec env ;;
/args) printf '%s\n' "$@" ;;
/silent) ;;
/png) printf '\211PNG\r\n\032\n' ;;
/html) echo '<html><script>alert(1)</script>' ;;
/field) printf 'Statu' ;;
/cgi)
  printf 'content-type: text/html\r\nStatus: 418 Teapot\r\nX-More: a\r\nX-More: b\r\nLambent-Error: forged\r\nConnection: keep-alive\r\n\r\n'
  exec cat ;;
/redirect) printf 'Location: https://example.com/x\n\n' ;;
/nothing) printf 'Status: 204\n\nthis has no place' ;;
/short) printf 'Content-Type: text/plain\nContent-Length: 10\n\nshort' ;;
/status) printf 'Status: 99\n\n' ;;
/broken) printf 'Status: 200\nno field\n\nbody' ;;
/endless) printf 'Status: 200\nX: y' ;;
/lines) while read -r line; do echo "got $line"; done ;;
/fail) echo "first" >&2; echo "no luck with $QUERY_STRING" >&2; exit 7 ;;
/late) echo begun; read -r line; exit 7 ;;
/signal) kill -TERM $$ ;;
/hang) echo "hanging" >&2; echo begun; sleep 600 & sleep 601; ;;
/silence) sleep 600 & sleep 601 ;;
/eat) exec awk 'BEGIN { s = "x"; while (length(s) < 500000000) s = s s }' ;;
/leave) sleep 600 & echo left ;;
/log) echo "line of $QUERY_STRING" >&2; printf 'rest' >&2 ;;
/ps) for f in /proc/[0-9]*/stat; do read -r line <"$f" && echo "$line"; done ;;
esac
