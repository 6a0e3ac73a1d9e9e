//! Debian's proxies, one function a configuration. Enters: a directory, a port, the sidecar's address. Leaves: a command
//! that serves there until it is killed. Must not touch: what Debian configured, rights beyond an ordinary user's.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::programs;

/// As long as the slowest may take to listen.
const START: Duration = Duration::from_secs(20);

/// Where a box is to stand.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) site: SocketAddr,
}

impl Place {
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    /// This program, as a user without rights even when the test is run by root.
    pub(crate) fn program(&self, name: &str) -> Command {
        let program = programs::command(name).expect("it was looked for");
        let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let mut command = if root { Command::new("setpriv") } else { Command::new(&program) };
        if root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
        }
        command.current_dir(&self.dir).env("HOME", &self.dir);
        command
    }
}

/// A product in one configuration.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    /// The browser is told of it; otherwise it stands before the sidecar and the page is its.
    pub(crate) forward: bool,
    /// The sidecar speaks TLS, which the box opens.
    pub(crate) tls: bool,
    /// What the client should end on.
    pub(crate) transport: &'static str,
    pub(crate) command: fn(&Place) -> Command,
}

pub(crate) const fn reverse(
    name: &'static str,
    program: &'static str,
    transport: &'static str,
    command: fn(&Place) -> Command,
) -> Spec {
    Spec { name, program, forward: false, tls: false, transport, command }
}

const fn forward(
    name: &'static str,
    program: &'static str,
    transport: &'static str,
    command: fn(&Place) -> Command,
) -> Spec {
    Spec { name, program, forward: true, tls: false, transport, command }
}

/// All of them. Both compressing ones flush after each event; that they were expected to hold them was a mistake.
pub(crate) const ALL: &[Spec] = &[
    reverse("nginx, `proxy_pass` only (HTTP/1.0 to us)", "nginx", "sse", |place| nginx(place, "", "")),
    reverse("nginx, `proxy_http_version 1.1`", "nginx", "sse", |place| nginx(place, "", "proxy_http_version 1.1;")),
    reverse("nginx, `gzip` for event streams", "nginx", "sse", |place| nginx(place, GZIP, "proxy_buffering off;")),
    reverse("nginx, `proxy_ignore_headers X-Accel-Buffering`", "nginx", "poll", |place| {
        nginx(place, "", "proxy_ignore_headers X-Accel-Buffering;")
    }),
    reverse("nginx, `proxy_read_timeout 5s`", "nginx", "sse", |place| nginx(place, "", "proxy_read_timeout 5s;")),
    reverse("haproxy, 50 s timeouts", "haproxy", "sse", |place| haproxy(place, "50s", "")),
    reverse("haproxy, `option http-no-delay`", "haproxy", "sse", |place| haproxy(place, "50s", "option http-no-delay")),
    reverse("haproxy, 3 s timeouts", "haproxy", "sse", |place| haproxy(place, "3s", "")),
    reverse("apache `mod_proxy_http`", "apache2", "sse", |place| apache(place, "")),
    reverse("apache, `SetOutputFilter DEFLATE`", "apache2", "sse", |place| apache(place, "SetOutputFilter DEFLATE")),
    reverse("varnish, default VCL", "varnishd", "sse", varnish),
    reverse("lighttpd `mod_proxy`", "lighttpd", "poll", |place| lighttpd(place, "")),
    reverse("lighttpd, `stream-response-body = 2`", "lighttpd", "sse", |place| {
        lighttpd(place, "server.stream-response-body = 2")
    }),
    forward("squid", "squid", "sse", squid),
    forward("tinyproxy", "tinyproxy", "sse", tinyproxy),
    forward("privoxy, Debian's actions and filters", "privoxy", "stream", privoxy),
    forward("e2guardian, Debian's story", "e2guardian", "stream", e2guardian),
    forward("mitmproxy", "mitmdump", "poll", |place| mitmproxy(place, &[])),
    Spec {
        tls: true,
        ..forward("mitmproxy, TLS intercepted", "mitmdump", "poll", |place| mitmproxy(place, &["--ssl-insecure"]))
    },
    forward("mitmproxy, `stream_large_bodies=1`", "mitmdump", "sse", |place| {
        mitmproxy(place, &["--set", "stream_large_bodies=1"])
    }),
];

const GZIP: &str = "gzip on; gzip_types text/event-stream; gzip_min_length 0;";

pub(crate) fn nginx(place: &Place, http: &str, location: &str) -> Command {
    let Place { dir, port, site } = place;
    let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let own: String = own.iter().map(|name| format!("{name}_temp_path {}/{name};\n", dir.display())).collect();
    let config = place.file(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             {own}{http}\nserver {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{site}; {location} }} }} }}\n"
        ),
    );
    let mut command = place.program("nginx");
    command.arg("-p").arg(dir).args(["-e", "stderr", "-c"]).arg(config);
    command
}

/// haproxy passes WebSockets; here it is told not to.
fn haproxy(place: &Place, patience: &str, more: &str) -> Command {
    let Place { port, site, .. } = place;
    let config = place.file(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode http\n  {more}\n  timeout connect 5s\n  timeout client {patience}\n  timeout server {patience}\n\
             frontend front\n  bind 127.0.0.1:{port}\n  http-request deny if {{ req.hdr(Upgrade) -m found }}\n  \
             default_backend back\nbackend back\n  server site {site}\n"
        ),
    );
    let mut command = place.program("haproxy");
    command.arg("-db").arg("-f").arg(config);
    command
}

fn apache(place: &Place, more: &str) -> Command {
    let Place { dir, port, site } = place;
    let modules = ["mpm_event", "authz_core", "filter", "deflate", "proxy", "proxy_http"];
    let module = |name: &&str| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
    let modules: String = modules.iter().map(module).collect();
    let dir = dir.display();
    let config = place.file(
        "apache.conf",
        &format!(
            "{modules}ServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/apache.pid\nErrorLog /dev/stderr\n\
             Mutex file:{dir} default\nServerName localhost\nListen 127.0.0.1:{port}\nProxyPass / http://{site}/\n\
             ProxyPassReverse / http://{site}/\n{more}\n"
        ),
    );
    let mut command = place.program("apache2");
    // One process with its threads: nothing is left when it is killed.
    command.arg("-X").arg("-f").arg(config);
    command
}

fn varnish(place: &Place) -> Command {
    let Place { dir, port, site } = place;
    let mut command = place.program("varnishd");
    command.args(["-F", "-j", "none", "-s", "malloc,32m", "-n"]).arg(dir.join("varnish"));
    command.args(["-a", &format!("127.0.0.1:{port}"), "-b", &site.to_string()]);
    command
}

fn lighttpd(place: &Place, more: &str) -> Command {
    let Place { dir, port, site } = place;
    let (dir, host, back) = (dir.display(), site.ip(), site.port());
    let config = place.file(
        "lighttpd.conf",
        &format!(
            "server.modules = (\"mod_proxy\")\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
             server.document-root = \"{dir}\"\nserver.upload-dirs = (\"{dir}\")\n\
             proxy.server = (\"\" => ((\"host\" => \"{host}\", \"port\" => {back})))\n{more}\n"
        ),
    );
    let mut command = place.program("lighttpd");
    command.arg("-D").arg("-f").arg(config);
    command
}

/// With Debian's rule for CONNECT, which keeps `ws://` out.
fn squid(place: &Place) -> Command {
    let Place { dir, port, .. } = place;
    let dir = dir.display();
    let config = place.file(
        "squid.conf",
        &format!(
            "http_port 127.0.0.1:{port}\nvisible_hostname localhost\nacl SSL_ports port 443\nacl CONNECT method CONNECT\n\
             http_access deny CONNECT !SSL_ports\nhttp_access allow all\naccess_log none\ncache_log {dir}/cache.log\n\
             pid_filename {dir}/squid.pid\ncoredump_dir {dir}\nnetdb_filename none\npinger_enable off\n\
             icon_directory /usr/share/squid/icons\nshutdown_lifetime 0 seconds\n"
        ),
    );
    let mut command = place.program("squid");
    command.arg("-N").arg("-f").arg(config);
    command
}

fn tinyproxy(place: &Place) -> Command {
    let port = place.port;
    let text =
        format!("Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nAllow 127.0.0.1\nConnectPort 443\n");
    let config = place.file("tinyproxy.conf", &text);
    let mut command = place.program("tinyproxy");
    command.arg("-d").arg("-c").arg(config);
    command
}

/// privoxy tunnels anything; here it is told to do so for port 443 only.
fn privoxy(place: &Place) -> Command {
    for name in ["match-all.action", "default.action", "default.filter"] {
        let text = fs::read(Path::new("/etc/privoxy").join(name)).expect("Debian's file");
        fs::write(place.dir.join(name), text).expect("the directory is ours");
    }
    place.file("no-ws.action", "{+limit-connect{443}}\n/\n");
    let (dir, port) = (place.dir.display(), place.port);
    let config = place.file(
        "privoxy.conf",
        &format!(
            "confdir {dir}\nlogdir {dir}\ntempldir /etc/privoxy/templates\nactionsfile match-all.action\n\
             actionsfile default.action\nactionsfile no-ws.action\nfilterfile default.filter\n\
             listen-address 127.0.0.1:{port}\nkeep-alive-timeout 5\nsocket-timeout 300\n"
        ),
    );
    let mut command = place.program("privoxy");
    command.arg("--no-daemon").arg(config);
    command
}

/// e2guardian tunnels to any port; here it refuses to.
fn e2guardian(place: &Place) -> Command {
    let (dir, port) = (place.dir.display(), place.port);
    let debian = fs::read_to_string("/etc/e2guardian/e2guardian.conf").expect("Debian's file");
    let ours =
        ["filterip", "filterports", "transparenthttpsport", "httpworkers", "filecachedir", "loglocation", "daemon"];
    let is_ours = |line: &&str| ours.iter().any(|key| line.trim_start().starts_with(key));
    let mut text: String = debian.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
    text += &format!(
        "filterip = 127.0.0.1\nfilterports = {port}\nhttpworkers = 60\nfilecachedir = '{dir}'\n\
         loglocation = '{dir}/access.log'\npidfilename = '{dir}/e2guardian.pid'\n"
    );
    text += &format!("daemonuser = '{}'\ndaemongroup = '{}'\n", name_of(place, "-un"), name_of(place, "-gn"));
    let story = place.file(
        "group.story",
        ".Include</etc/e2guardian/common.story>\n.Include</etc/e2guardian/site.story>\nfunction(sslrequestcheck)\n\
         if(true,,506) return setblock\n",
    );
    let group = fs::read_to_string("/etc/e2guardian/e2guardianf1.conf").expect("Debian's file");
    let group = group.replace("/etc/e2guardian/examplef1.story", &story.display().to_string());
    place.file("e2guardianf1.conf", &group);
    let config = place.file("e2guardian.conf", &text);
    let mut command = place.program("e2guardian");
    command.arg("-N").arg("-c").arg(config);
    command
}

/// Whom programs run as.
fn name_of(place: &Place, which: &str) -> String {
    let said = place.program("id").arg(which).output().expect("it runs");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// mitmproxy passes WebSockets; here a script of its refuses them.
fn mitmproxy(place: &Place, more: &[&str]) -> Command {
    let refuse = place.file(
        "refuse.py",
        "from mitmproxy import http\n\n\ndef requestheaders(flow):\n    if \"upgrade\" in flow.request.headers:\n        \
         flow.response = http.Response.make(403)\n",
    );
    let mut command = place.program("mitmdump");
    command.args(["--quiet", "--listen-host", "127.0.0.1", "--listen-port", &place.port.to_string()]);
    command.arg("--set").arg(format!("confdir={}", place.dir.display())).args(more).arg("-s").arg(refuse);
    command
}

/// A running box; it and its directory end with this.
pub(crate) struct Box_ {
    spec: Spec,
    place: Place,
    child: Child,
}

impl Box_ {
    /// Starts it; `site` gives the sidecar's address, knowing the box's.
    pub(crate) async fn start(spec: &Spec, mut site: impl FnMut(SocketAddr) -> SocketAddr) -> Self {
        // A port that was free may be taken before the box has it.
        for attempt in 0..3 {
            let at = free().await;
            let dir = std::env::temp_dir().join(format!("underpass-box-{}-{}", std::process::id(), at.port()));
            fs::create_dir_all(&dir).expect("a directory");
            // For the user without rights.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("the directory is ours");
            let place = Place { dir, port: at.port(), site: site(at) };
            let child = spawn(spec, &place);
            let mut started = Self { spec: *spec, place, child };
            if started.listens().await {
                return started;
            }
            assert!(attempt < 2, "{} does not start; it said:\n{}", spec.name, started.said());
        }
        unreachable!("the last attempt returned or failed")
    }

    /// Kills it, with all connections through it, and starts it again at the same address.
    pub(crate) async fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(&self.spec, &self.place);
        assert!(self.listens().await, "{} does not start again; it said:\n{}", self.spec.name, self.said());
    }

    pub(crate) fn at(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.place.port).into()
    }

    async fn listens(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < START && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if TcpStream::connect(self.at()).await.is_ok() {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// What it complained of.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.place.dir.join("output")).unwrap_or_default()
    }
}

impl Drop for Box_ {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.place.dir);
    }
}

fn spawn(spec: &Spec, place: &Place) -> Child {
    let output = fs::File::create(place.dir.join("output")).expect("the directory is ours");
    output.set_permissions(fs::Permissions::from_mode(0o666)).expect("the file is ours");
    let copy = output.try_clone().expect("a file");
    let mut command = (spec.command)(place);
    let child = command.stdin(Stdio::null()).stdout(output).stderr(copy).spawn();
    child.unwrap_or_else(|error| panic!("{}: {error}", spec.name))
}

async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}
