package builtin

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"lambent"
	"lambent/executor"
)

// site serves the files of a folder, which never change: that is what a revision is.
//
// A folder is its index.html, and a path to one without the slash at the end is sent to it. What is not there is
// answered with 404.html, and where the site has none but an index.html, a path that looks like a page of an
// application (its last segment has no dot) with that. The rules are those of Cloudflare Pages, but for
// the dot: an asset that is missing is a mistake, which a page with status 200 would hide.
//
// Nothing that begins with a dot is served, but /.well-known (RFC 8615), nor the manifest of the function.
type site struct {
	root  *os.Root
	whole bool // the folder is the whole bundle

	mu         sync.Mutex
	young, old map[string]*file // what was used last, by name; guarded by mu
}

// manifest is in the bundle because it is in the directory that was deployed; its environment is not for everybody.
const manifest = "lambent.yaml"

// maxFiles bounds how many files a site remembers the digests of, at least half of it and at most the whole.
const maxFiles = 20000

// file is what is remembered of a file.
type file struct {
	name     string
	size     int64
	encoded  []*file // the same, compressed by the codings, the better first
	encoding string  // of the content, when it is such a file
	media    string  // the type of the content, not of the encoding

	mu   sync.Mutex // guards etag, and is held while it is made, so that it is made once
	etag string
}

var codings = []struct{ name, suffix string }{{"br", ".br"}, {"gzip", ".gz"}}

func newSite(spec executor.Spec) (handler, error) {
	folder := path.Clean(spec.Revision.Settings.Handler)
	code, err := os.OpenRoot(spec.CodeDir)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeCodeUnavailable, "the code of the revision: %w", err)
	}
	defer code.Close()
	root, err := code.OpenRoot(filepath.FromSlash(folder))
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeStartFailed, "there is no folder %s to serve: %w", folder, err).
			WithHint("handler names a folder of the bundle, such as public; . is all of it")
	}
	return &site{root: root, whole: folder == ".", young: map[string]*file{}}, nil
}

func (s *site) close() error { return s.root.Close() }

func (s *site) serve(inv *lambent.Invocation) (*lambent.Response, error) {
	switch inv.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		return plain(http.StatusNoContent, "", "Allow", allowed), nil
	default:
		return plain(http.StatusMethodNotAllowed, "405 method not allowed", "Allow", allowed), nil
	}
	target, query, asked := strings.Cut(inv.Target, "?")
	name, ok := s.name(target)
	if !ok {
		return s.missing(inv)
	}
	folder := name == "." || strings.HasSuffix(target, "/")
	if folder {
		name = path.Join(name, "index.html")
	}
	f, err := s.file(name)
	switch {
	case err == nil:
		return s.answer(inv, f, http.StatusOK)
	case errors.Is(err, errFolder) && !folder && s.has(path.Join(name, "index.html")):
		// Relative, because only the client knows what stands in front of the path.
		to := "./" + url.PathEscape(path.Base(name)) + "/"
		if asked {
			to += "?" + query
		}
		return plain(http.StatusPermanentRedirect, "", "Location", to, "Cache-Control", cacheControl), nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errFolder):
		return nil, err
	}
	if strings.Contains(path.Base(strings.TrimSuffix(target, "/")), ".") || s.has("404.html") {
		return s.missing(inv)
	}
	if f, err = s.file("index.html"); err != nil {
		return s.missing(inv)
	}
	return s.answer(inv, f, http.StatusOK)
}

// missing answers that there is nothing.
func (s *site) missing(inv *lambent.Invocation) (*lambent.Response, error) {
	f, err := s.file("404.html")
	if err != nil {
		return plain(http.StatusNotFound, "404 not found", "Cache-Control", cacheControl), nil
	}
	return s.answer(inv, f, http.StatusNotFound)
}

// name is the file that a path, as the client wrote it, may name; "." for the folder itself.
func (s *site) name(target string) (string, bool) {
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(target, "/"), "/"), "/")
	for i, segment := range segments {
		text, err := url.PathUnescape(segment)
		switch {
		case err != nil, strings.ContainsAny(text, "/\\\x00"):
			return "", false
		case text == "" && len(segments) == 1:
			return ".", true
		case text == "", text[0] == '.' && (i > 0 || text != ".well-known"):
			return "", false
		}
		segments[i] = text
	}
	name := strings.Join(segments, "/")
	return name, !s.whole || name != manifest
}

func (s *site) has(name string) bool {
	_, err := s.file(name)
	return err == nil
}

var errFolder = errors.New("it is a folder")

// file gives what is known of a file. Errors are errFolder, fs.ErrNotExist, or the platform's.
func (s *site) file(name string) (*file, error) {
	s.mu.Lock()
	f := s.young[name]
	if f == nil {
		if f = s.old[name]; f != nil {
			s.keep(f)
		}
	}
	s.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := s.look(name)
	if err != nil {
		return nil, err
	}
	for _, c := range codings {
		if e, err := s.look(name + c.suffix); err == nil {
			e.encoding, e.media = c.name, f.media
			f.encoded = append(f.encoded, e)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if there := s.young[name]; there != nil {
		return there, nil // its digest may be known already
	}
	s.keep(f)
	return f, nil
}

// keep remembers f as the one used last. The lock is held.
func (s *site) keep(f *file) {
	if len(s.young) >= maxFiles/2 {
		s.young, s.old = map[string]*file{}, s.young
	}
	s.young[f.name] = f
}

func (s *site) look(name string) (*file, error) {
	info, err := s.root.Stat(name)
	switch {
	case err != nil:
		return nil, absent(err)
	case info.IsDir():
		return nil, errFolder
	case !info.Mode().IsRegular():
		return nil, fs.ErrNotExist
	}
	f := &file{name: name, size: info.Size()}
	if f.media = mediaTypes[strings.ToLower(path.Ext(name))]; f.media == "" {
		f.media, err = s.sniff(name)
	}
	return f, err
}

// absent is what an error of opening means. For whoever asks, a link that leads out of the folder, a name that is too
// long and a file below a file are nothing; what the node lacks is the platform's fault.
func absent(err error) error {
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EIO, syscall.ENOMEM, fs.ErrClosed} {
		if errors.Is(err, lack) {
			return lambent.Errorf(lambent.CodeCodeUnavailable, "reading the site: %w", err)
		}
	}
	return fs.ErrNotExist
}

func (s *site) sniff(name string) (string, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return "", absent(err)
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", absent(err)
	}
	return http.DetectContentType(head[:n]), nil
}

// tag gives the strong entity tag of f: the digest of its content, made when it is first asked for.
func (s *site) tag(f *file) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.etag != "" {
		return f.etag, nil
	}
	r, err := s.root.Open(f.name)
	if err != nil {
		return "", absent(err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", absent(err)
	}
	f.etag = `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16]) + `"`
	return f.etag, nil
}

// mediaTypes are the types of what sites are made of. What the machine's own tables say would differ from node to node.
var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".htm": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".json": "application/json", ".map": "application/json",
	".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".csv": "text/csv; charset=utf-8", ".xml": "application/xml",
	".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
	".avif": "image/avif", ".ico": "image/vnd.microsoft.icon", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf",
	".wasm": "application/wasm", ".pdf": "application/pdf", ".webmanifest": "application/manifest+json", ".atom": "application/atom+xml",
	".rss": "application/rss+xml", ".mp4": "video/mp4", ".webm": "video/webm", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".zip": "application/zip",
	".gz": "application/gzip", ".br": "application/octet-stream",
}
