package builtin

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"

	"lambent"
)

const (
	allowed = "GET, HEAD, OPTIONS"
	// cacheControl lets everybody keep an answer, and ask each time whether it still holds: a deploy is seen at once,
	// and what has not changed costs a 304.
	cacheControl = "no-cache"
)

// plain is an answer of text; fields are names and values of its header.
func plain(status int, text string, fields ...string) *lambent.Response {
	h := http.Header{"X-Content-Type-Options": {"nosniff"}}
	if text != "" {
		text += "\n"
		h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	}
	for i := 0; i < len(fields); i += 2 {
		h[fields[i]] = []string{fields[i+1]}
	}
	resp := &lambent.Response{Status: status, Header: h, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}
	if status == http.StatusNoContent {
		resp.ContentLength = -1
	}
	return resp
}

// answer gives f, or the part of it that the request asks for. Conditions and ranges are for status 200 only.
func (s *site) answer(inv *lambent.Invocation, f *file, status int) (*lambent.Response, error) {
	h := http.Header{"X-Content-Type-Options": {"nosniff"}, "Cache-Control": {cacheControl}}
	if len(f.encoded) > 0 {
		h["Vary"] = []string{"Accept-Encoding"}
		f = negotiate(f, inv.Header["Accept-Encoding"])
	}
	ranges := []span{{0, f.size}}
	if status == http.StatusOK {
		tag, err := s.tag(f)
		if err != nil {
			return nil, unreadable(err)
		}
		h["Etag"], h["Accept-Ranges"] = []string{tag}, []string{"bytes"}
		switch {
		case inv.Header["If-Match"] != nil && !matches(inv.Header["If-Match"], tag, false):
			return bare(http.StatusPreconditionFailed, h), nil
		case inv.Header["If-None-Match"] != nil && matches(inv.Header["If-None-Match"], tag, true):
			return bare(http.StatusNotModified, h), nil
		}
		if r := inv.Header.Get("Range"); r != "" && inv.Method == http.MethodGet && wants(inv.Header["If-Range"], tag) {
			some, ok := parseRanges(r, f.size)
			switch {
			case ok && len(some) == 0:
				h["Content-Range"] = []string{fmt.Sprintf("bytes */%d", f.size)}
				return bare(http.StatusRequestedRangeNotSatisfiable, h), nil
			case ok:
				ranges, status = some, http.StatusPartialContent
			}
		}
	}
	h["Content-Type"] = []string{f.media}
	if f.encoding != "" {
		h["Content-Encoding"] = []string{f.encoding}
	}
	resp := &lambent.Response{Status: status, Header: h, ContentLength: ranges[0].length, Body: http.NoBody}
	if inv.Method == http.MethodHead {
		return resp, nil
	}
	r, err := s.root.Open(f.name)
	if err != nil {
		return nil, unreadable(absent(err))
	}
	content := io.Reader(io.NewSectionReader(r, ranges[0].start, ranges[0].length))
	switch {
	case len(ranges) > 1:
		content, resp.ContentLength = several(h, r, f, ranges)
	case status == http.StatusPartialContent:
		h["Content-Range"] = []string{ranges[0].of(f.size)}
	}
	resp.Body = reader{content, r}
	return resp, nil
}

type reader struct {
	io.Reader
	io.Closer
}

// unreadable is the error of a file that was there when the site was looked at.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return lambent.Errorf(lambent.CodeCodeUnavailable, "a file of the site is gone: %w", err)
	}
	return err
}

func bare(status int, h http.Header) *lambent.Response {
	resp := &lambent.Response{Status: status, Header: h, Body: http.NoBody}
	if status == http.StatusNotModified {
		resp.ContentLength = -1 // it would be that of the whole file
	}
	return resp
}

// negotiate gives the best encoding of f that the client takes (RFC 9110, section 12.5.3), f itself if none.
func negotiate(f *file, accept []string) *file {
	best, weight := f, 0.0
	for _, e := range f.encoded {
		if q := quality(accept, e.encoding); q > weight {
			best, weight = e, q
		}
	}
	return best
}

func quality(accept []string, coding string) (q float64) {
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			if name != coding && name != "*" {
				continue
			}
			given := 1.0
			if text, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
				var err error
				if given, err = strconv.ParseFloat(text, 64); err != nil {
					given = 0
				}
			}
			if name == coding {
				return given
			}
			q = given
		}
	}
	return q
}

// matches tells whether tag is among those of an If-Match or If-None-Match; weak lets weak ones count.
func matches(values []string, tag string, weak bool) bool {
	for _, line := range values {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			if weak {
				item = strings.TrimPrefix(item, "W/")
			}
			if item == tag || item == "*" {
				return true
			}
		}
	}
	return false
}

// wants tells whether an If-Range, if there is one, lets ranges count. There are no dates to compare with.
func wants(ifRange []string, tag string) bool {
	return len(ifRange) == 0 || ifRange[0] == tag
}

type span struct{ start, length int64 }

func (s span) of(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.start, s.start+s.length-1, size)
}

const maxRanges = 16

// parseRanges reads a Range header (RFC 9110, section 14.1.2) and leaves out what is beyond the end. ok is false for those
// to be ignored: malformed, of another unit, or more than a client needs.
func parseRanges(header string, size int64) (ranges []span, ok bool) {
	set, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return nil, false
	}
	n, sum := 0, int64(0)
	for item := range strings.SplitSeq(set, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		if n++; n > maxRanges {
			return nil, false
		}
		first, last, dash := strings.Cut(item, "-")
		var r span
		switch {
		case !dash || !digits(first) || !digits(last) || first+last == "":
			return nil, false
		case first == "":
			r.length = min(number(last), size)
			r.start = size - r.length
		default:
			r.start = number(first)
			end := size - 1
			if last != "" {
				if number(last) < r.start {
					return nil, false
				}
				end = min(end, number(last))
			}
			r.length = end - r.start + 1
		}
		if r.length > 0 {
			ranges = append(ranges, r)
			sum += r.length
		}
	}
	if n == 0 || sum > size { // they overlap: the whole is less
		return nil, false
	}
	return ranges, true
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// number reads digits; what is too large for any file is the largest number.
func number(s string) int64 {
	n, _ := strconv.ParseUint(s, 10, 63) // out of range gives the largest, too
	return int64(n)
}

// several gives several ranges of r as a body, and its length.
func several(h http.Header, r *os.File, f *file, ranges []span) (io.Reader, int64) {
	boundary := rand.Text() // no file can have it
	var parts []io.Reader
	var length int64
	text := func(s string) {
		parts = append(parts, strings.NewReader(s))
		length += int64(len(s))
	}
	for _, s := range ranges {
		text(fmt.Sprintf("--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n", boundary, f.media, s.of(f.size)))
		parts = append(parts, io.NewSectionReader(r, s.start, s.length))
		length += s.length
		text("\r\n")
	}
	text("--" + boundary + "--\r\n")
	h["Content-Type"] = []string{"multipart/byteranges; boundary=" + boundary}
	return io.MultiReader(parts...), length
}
