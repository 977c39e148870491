package egress

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"lambent"
)

// serveHTTP makes the HTTP proxy of RFC 9110, sections 7.6 and 9.3.6: CONNECT, and requests with an absolute
// http:// target.
func (g *Gate) serveHTTP() {
	silent := log.New(io.Discard, "", 0) // what a function sends is no news for the node's log
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	g.server = &http.Server{
		Handler:                      http.HandlerFunc(g.handle),
		Protocols:                    protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               64 << 10,
		ErrorLog:                     silent,
		BaseContext:                  func(net.Listener) context.Context { return g.ctx },
	}
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			to, err := parseTarget(address)
			if err != nil {
				return nil, err
			}
			return g.connect(to)
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10, // each field becomes many times its size in the node's memory
		MaxIdleConnsPerHost:    8,
		MaxIdleConns:           32,
		IdleConnTimeout:        30 * time.Second,
		// Without it, the body is sent without waiting for "100 Continue".
		ExpectContinueTimeout: time.Second,
	}
	context.AfterFunc(g.ctx, transport.CloseIdleConnections)
	g.forward = &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // bodies stream
		ErrorLog:      silent,
		ErrorHandler:  func(w http.ResponseWriter, r *http.Request, err error) { g.answer(w, r.URL.Host, err) },
		Rewrite: func(r *httputil.ProxyRequest) {
			// It has left out what a reverse proxy must not believe. Here it is the function's own to say.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = values
				}
			}
		},
	}
}

func (g *Gate) handle(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		g.handleConnect(w, r)
		return
	}
	if r.URL.Scheme != "http" || r.URL.User != nil || r.URL.Opaque != "" {
		g.answer(w, r.URL.Host, lambent.Errorf(lambent.CodeInvalidRequest, "this is the egress proxy, which takes CONNECT, and http:// URLs without a user").
			WithHint("use CONNECT for https"))
		return
	}
	authority := r.URL.Host
	if r.URL.Port() == "" {
		authority = net.JoinHostPort(r.URL.Hostname(), "80")
	}
	to, err := parseTarget(authority)
	if err != nil {
		g.answer(w, r.URL.Host, err)
		return
	}
	// What is sent on names the target only, whatever the Host field was (RFC 9112, section 3.2.2).
	r.URL.Host, r.Host = to.String(), strings.TrimSuffix(to.String(), ":80")
	g.forward.ServeHTTP(w, r)
}

func (g *Gate) handleConnect(w http.ResponseWriter, r *http.Request) {
	to, invalid := parseTarget(r.RequestURI)
	if invalid == nil && r.ContentLength != 0 {
		invalid = lambent.Errorf(lambent.CodeInvalidRequest, "CONNECT has no body")
	}
	if invalid != nil {
		g.answer(w, r.URL.Host, invalid)
		return
	}
	out, err := g.connect(to)
	if err != nil {
		g.answer(w, r.URL.Host, err)
		return
	}
	hijacked, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.Close()
		g.answer(w, r.URL.Host, err)
		return
	}
	in := hijacked.(*conn)
	_, err = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
	if early := rw.Reader.Buffered(); err == nil && early > 0 { // sent before our answer was there
		_, err = io.CopyN(out, rw.Reader, int64(early))
	}
	if err != nil {
		in.abort()
		out.abort()
		return
	}
	join(in, out)
}

// answer tells both the client and the function's log.
func (g *Gate) answer(w http.ResponseWriter, host string, err error) {
	e := lambent.ErrorOf(err)
	if e.Code == lambent.CodeInternal {
		e = failed("the connection to "+host+" broke", err)
	}
	if e.Code != lambent.CodeClientClosed {
		g.note(e)
	}
	w.Header().Set("Connection", "close")
	lambent.WriteError(w, e)
}
