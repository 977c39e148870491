package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"syscall"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"lambent"
	"lambent/internal/nearest"
	"lambent/store"
)

// huma makes its own errors through package variables. Nothing else in the program uses huma, and package
// initialisation is the one moment when no request can be reading them.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return newError("", status, message, errs...)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		return newError(ctx.Operation().OperationID, status, message, errs...)
	}
}

// failure is a *lambent.Error as huma answers it.
type failure struct {
	Fault *lambent.Error `json:"error"`
}

func (f *failure) Error() string  { return f.Fault.Error() }
func (f *failure) GetStatus() int { return f.Fault.Status() }

// newError turns what huma found wrong with a request of an operation into our error.
func newError(operation string, status int, message string, errs ...error) huma.StatusError {
	code := lambent.CodeInvalidRequest
	switch {
	case status == http.StatusRequestEntityTooLarge:
		code = lambent.CodeBodyTooLarge
	case status >= 500:
		code = lambent.CodeInternal
	}
	e := lambent.Errorf(code, "%s", message)
	var found []string
	for _, err := range errs {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			found = append(found, err.Error())
			continue
		}
		found = append(found, d.Location+": "+d.Message)
		if e.Hint == "" && d.Message == validation.MsgUnexpectedProperty {
			e.Hint = didYouMean(operation, d.Location)
		}
	}
	if len(found) > 0 {
		e.Message = strings.Join(found, "; ")
	}
	return &failure{e}
}

var (
	bodyNames = map[string][]string{ // by operation
		"build":      jsonNames(reflect.TypeFor[lambent.Build]()),
		"deploy":     jsonNames(reflect.TypeFor[Deploy]()),
		"set-alias":  jsonNames(reflect.TypeFor[AliasSpec]()),
		"set-route":  jsonNames(reflect.TypeFor[lambent.RouteSpec]()),
		"publish":    jsonNames(reflect.TypeFor[Publish]()),
		"rollback":   jsonNames(reflect.TypeFor[Rollback]()),
		"create-key": jsonNames(reflect.TypeFor[KeySpec]()),
	}
	settingNames = jsonNames(reflect.TypeFor[lambent.Settings]())
	timeoutNames = jsonNames(reflect.TypeFor[lambent.Timeouts]())
)

func jsonNames(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// didYouMean is a hint for the unknown property at location, such as body.settings.memroy, of an operation.
func didYouMean(operation, location string) string {
	dot := strings.LastIndexByte(location, '.')
	names := map[string][]string{
		"body":                   bodyNames[operation],
		"body.settings":          settingNames,
		"body.settings.timeouts": timeoutNames,
	}[location[:max(dot, 0)]]
	if name := nearest.Of(location[dot+1:], names); name != "" {
		return fmt.Sprintf("did you mean %s?", name)
	}
	if len(names) > 0 {
		return "use " + strings.Join(names, ", ")
	}
	return ""
}

// unmarshal is json.Unmarshal whose errors give the line and column.
func unmarshal(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(v)
	var syntax *json.SyntaxError
	var offset int64
	switch {
	case err == nil:
		if _, err := dec.Token(); err == io.EOF {
			return nil
		}
		offset, err = dec.InputOffset(), errors.New("there is more after the JSON value")
	case errors.As(err, &syntax):
		offset = syntax.Offset - 1
	case errors.Is(err, io.ErrUnexpectedEOF):
		offset, err = int64(len(data)), errors.New("the JSON ends too early")
	default:
		return err
	}
	before := data[:min(max(offset, 0), int64(len(data)))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}

// register adds an operation whose errors, of whatever kind, leave in our format.
func register[I, O any](s *server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	// A read deadline would outlive the body, and ending a handler that takes longer is not its purpose.
	op.BodyReadTimeout = -1
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, &failure{s.fault(op, err)}
		}
		return out, nil
	})
}

func full(err error) bool {
	return errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (s *server) fault(op huma.Operation, err error) *lambent.Error {
	var e *lambent.Error
	switch {
	case errors.As(err, &e) && (e.Code != lambent.CodeInternal || !full(err)):
	case errors.Is(err, store.ErrConflict):
		e = lambent.Errorf(lambent.CodeConflict, "it was changed by somebody else at the same time: %w", err).
			WithHint("read it again, then decide")
	case full(err):
		e = lambent.Errorf(lambent.CodeStorageFull, "%w", err).WithHint("free some space on the data disk")
	case errors.Is(err, store.ErrClosed):
		e = lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping: %w", err)
	default:
		e = lambent.ErrorOf(err)
	}
	if e.Fault == lambent.FaultPlatform {
		s.Logger.Error("control: request failed", slog.String("operation", op.OperationID), slog.Any("error", err))
	}
	return e
}
