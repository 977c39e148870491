// Command reach fetches the URL it is asked for, by the proxy of its environment or directly.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		transport := &http.Transport{DisableKeepAlives: true}
		if r.FormValue("how") == "proxy" {
			transport.Proxy = http.ProxyFromEnvironment
		}
		resp, err := (&http.Client{Transport: transport}).Get(r.FormValue("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})))
}
