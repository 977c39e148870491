package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"

	"lambent"
)

// Bundle is code that the platform has.
type Bundle struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// HasCode reports whether the platform has the bundle with that digest.
func (c *Client) HasCode(ctx context.Context, digest string) (bool, error) {
	err := c.call(ctx, http.MethodHead, "/v1/code"+segments(digest), nil, nil, nil)
	if lambent.HasCode(err, lambent.CodeNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Upload sends an archive: tar, tar.gz or zip. It sends nothing when the archive is a bundle that the
// platform has already. progress, unless nil, is called as bytes leave; it must not block.
func (c *Client) Upload(ctx context.Context, archive io.ReadSeeker, progress func(sent, total int64)) (Bundle, error) {
	hash := sha256.New()
	_, err := archive.Seek(0, io.SeekStart)
	if err != nil {
		return Bundle{}, unreadable(err)
	}
	size, err := io.Copy(hash, archive)
	if err != nil {
		return Bundle{}, unreadable(err)
	}
	digest := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	if has, err := c.HasCode(ctx, digest); has || err != nil {
		return Bundle{digest, size}, err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return Bundle{}, unreadable(err)
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	var body io.Reader = archive
	if progress != nil {
		body = &counter{archive, 0, size, progress}
	}
	var out Bundle
	err = c.call(ctx, http.MethodPut, "/v1/code", header, body, &out)
	return out, err
}

func unreadable(err error) error {
	return lambent.Errorf(lambent.CodeInvalidRequest, "cannot read the archive: %w", err)
}

type counter struct {
	io.Reader
	sent, total int64
	progress    func(sent, total int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.sent += int64(n)
	c.progress(c.sent, c.total)
	return n, err
}
