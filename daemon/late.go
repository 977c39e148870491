package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/internal/inbound"
)

// The listeners that late requests come to.
const (
	lateFunctions = "functions"
	lateControl   = "control"
)

// Late requests come to the old process, on connections that it had before an upgrade. It passes them on, unread, over
// connections that only it can make, so the fields that tell what else was known of a request can be believed.
const (
	lateAddress = "Lambent-Late-Address" // of the client
	lateHost    = "Lambent-Late-Host"
	lateScheme  = "Lambent-Late-Scheme"
	lateTarget  = "Lambent-Late-Target" // as the client wrote it
)

// maxLate bounds the connections for late requests of a listener: each is a descriptor in both processes. Requests that
// find none free wait.
const maxLate = 256

// forwarded are fields that a ReverseProxy takes out, and the gateway adds to or reads.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// errUnreached says that nothing of a late request has left this process.
var errUnreached = errors.New("no connection")

// passOn makes the handler of late requests in the old process. Dial connects with the new one.
func (n *node) passOn(dial func(context.Context) (net.Conn, error)) http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := dial(ctx)
				if err != nil {
					err = fmt.Errorf("%w: %w", errUnreached, err)
				}
				return conn, err
			},
			DisableCompression:  true,
			MaxConnsPerHost:     maxLate,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     30 * time.Second, // less than that of the server there
		},
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: "late", Path: "/"}
			r.Out.Trailer = r.In.Trailer // complete when the body has ended
			for _, name := range forwarded {
				if values := r.In.Header[name]; len(values) > 0 {
					r.Out.Header[name] = values
				}
			}
			scheme := "http"
			if r.In.TLS != nil {
				scheme = "https"
			}
			for name, value := range map[string]string{
				lateAddress: r.In.RemoteAddr, lateHost: r.In.Host, lateScheme: scheme, lateTarget: r.In.RequestURI,
			} {
				r.Out.Header[name] = []string{value}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode != http.StatusSwitchingProtocols {
				r.Header.Set("Connection", "close")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // nobody is there
			}
			hint := "find out whether it was done before you send it again"
			if errors.Is(err, errUnreached) {
				hint = "send the request again"
			}
			lambent.WriteError(w, lambent.Errorf(lambent.CodeShuttingDown, "this node was upgraded, and its new process does not answer: %w", err).WithHint("%s", hint))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.passing.Add(1)
		defer n.passing.Done()
		body, end, err := inbound.Body(w, r, -1)
		defer end()
		if err != nil {
			lambent.WriteError(w, lambent.ErrorOf(err))
			return
		}
		if body != nil {
			r.Body = body
		}
		proxy.ServeHTTP(w, r)
	})
}

// receive gives late requests to h as they were when they came to the old process.
func receive(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := r.Header.Get(lateTarget)
		u, err := url.ParseRequestURI(target)
		if err != nil && (r.Method != http.MethodOptions || target != "*") {
			lambent.WriteError(w, lambent.Errorf(lambent.CodeInvalidRequest, "the target %q of the request cannot be read", target))
			return
		}
		if err != nil {
			u = &url.URL{Path: "*"}
		}
		r.URL, r.RequestURI, r.RemoteAddr, r.Host = u, target, r.Header.Get(lateAddress), r.Header.Get(lateHost)
		if r.Header.Get(lateScheme) == "https" {
			r.TLS = &tls.ConnectionState{HandshakeComplete: true}
		}
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "Lambent-Late-") })
		h.ServeHTTP(w, r)
	})
}

// lateInvoker gives exchanges without an end of their own no more than their time to drain: the connection is that of
// a process that ends.
type lateInvoker struct{ lambent.Invoker }

// Invoke implements [lambent.Invoker].
func (l lateInvoker) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	resp, err := l.Invoker.Invoke(ctx, inv)
	if err == nil && resp.Drain != nil {
		over := make(chan struct{})
		time.AfterFunc(cmp.Or(inv.Revision.Settings.Timeouts.Drain, lambent.DefaultDrain).D(), func() { close(over) })
		resp.Drain = over
	}
	return resp, err
}

// serveLate serves what the process before passes on, until that has ended.
func (n *node) serveLate(serving *sync.WaitGroup) {
	if n.before == nil {
		return
	}
	never := func() bool { return false }
	for listener, h := range map[string]http.Handler{
		lateFunctions: n.gateway(lateInvoker{n.invoker}, never), lateControl: followBriefly(http.HandlerFunc(n.manageDoor)),
	} {
		queue, s := n.before.late[listener], n.httpServer(receive(h))
		s.MaxHeaderBytes *= 2 // what tells of the client comes on top
		n.late = append(n.late, s)
		serving.Go(func() { _ = s.Serve(queue) }) // it ends with the queue
		serving.Go(func() {
			select {
			case <-n.before.gone:
			case <-n.stopping.Done():
				return // drain ends it
			}
			s.Close()
		})
	}
}

var errLate = errors.New("this connection ends with another process")

// followBriefly lets nobody follow for long: he comes again, and then to us.
func followBriefly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "true" {
			ctx, cancel := context.WithTimeoutCause(r.Context(), time.Second, errLate)
			defer cancel()
			r = r.WithContext(ctx)
		}
		h.ServeHTTP(w, r)
	})
}
