using Workerd = import "/workerd/workerd.capnp";

# Two sockets, as descriptors: a worker whose isolate serves all requests, and one that loads a worker anew for each.
const config :Workerd.Config = (
  services = [
    (name = "static", worker = (
      compatibilityDate = "2026-07-01",
      modules = [(name = "static.js", esModule = embed "static.js")],
    )),
    (name = "fresh", worker = (
      compatibilityDate = "2026-07-01", compatibilityFlags = ["experimental"],
      modules = [(name = "fresh.js", esModule = embed "fresh.js"), (name = "static", text = embed "static.js")],
      bindings = [(name = "LOADER", workerLoader = (id = "functions"))],
    )),
  ],
  sockets = [(name = "static", http = (), service = "static"), (name = "fresh", http = (), service = "fresh")],
);
