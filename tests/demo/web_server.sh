# A real web server with an access log in $work, and the load that fills it. Sourced by access_log.sh.
#
# start_web_server sets `web` (the process) and `web_name`; drive_web_server sends some seconds of requests.

start_web_server() {
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  if command -v nginx >/dev/null; then
    web_name=$(nginx -v 2>&1 | sed 's/.*: //')
    nginx_config >"$work/nginx.conf"
    nginx -p "$work" -e "$work/error.log" -c "$work/nginx.conf" &
  else
    web_name=$(apache2 -v | sed -n 's/.*: \(Apache[^ ]*\).*/\1/p')
    mkdir -p "$work/htdocs/page"
    for page in $(seq 0 99); do echo "page $page" >"$work/htdocs/page/$page"; done
    apache_config >"$work/apache.conf"
    apache2 -d "$work" -f "$work/apache.conf" -D FOREGROUND &
  fi
  web=$!
  until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null; do
    kill -0 "$web" 2>/dev/null || fail "the web server did not start: $(cat "$work/error.log")"
    sleep 0.05
  done
}

drive_web_server() {
  if command -v wrk >/dev/null; then
    wrk --threads 2 --connections 64 --duration 10s --script "$here/requests.lua" "http://127.0.0.1:$port" >/dev/null
  else
    for page in $(seq 0 19); do
      local url="http://127.0.0.1:$port/page/$((RANDOM % 120))?visit=$RANDOM&part=$page"
      ab -q -k -c 32 -n $((lines_wanted / 20 + 1)) -H "Referer: http://example.org/$RANDOM" "$url" >/dev/null 2>&1 ||
        fail "ab could not reach $url"
    done
  fi
  # Both servers buffer their log for at most a second.
  sleep 1.2
}

nginx_config() {
  cat <<NGINX
daemon off;
worker_processes 2;
pid $work/nginx.pid;
events { worker_connections 1024; }
http {
  access_log $work/access.log combined buffer=64k flush=1s;
  client_body_temp_path $work/body;
  proxy_temp_path $work/proxy;
  fastcgi_temp_path $work/fastcgi;
  uwsgi_temp_path $work/uwsgi;
  scgi_temp_path $work/scgi;
  keepalive_requests 10000000;
  server {
    listen 127.0.0.1:$port;
    location / { return 200 "welcome\n"; }
    location /page/ { return 200 "a page of \$uri with some words in it\n"; }
    location /api/ { default_type application/json; return 201 "{\"path\":\"\$uri\"}\n"; }
    location /old/ { return 301 /page/1; }
    location /missing/ { return 404; }
    location /private/ { return 403; }
  }
}
NGINX
}

apache_config() {
  local modules=/usr/lib/apache2/modules
  cat <<APACHE
ServerName localhost
Listen 127.0.0.1:$port
PidFile $work/apache.pid
Mutex file:$work default
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
ErrorLog $work/error.log
LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" combined
CustomLog $work/access.log combined
BufferedLogs On
DocumentRoot $work/htdocs
MaxKeepAliveRequests 0
APACHE
}
