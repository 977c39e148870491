package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
	"lambent/store"
)

const (
	routesPath = "/v1/namespaces/{namespace}/routes"
	routePath  = routesPath + "/{name}"
)

// maxRoutes bounds the routes of a namespace: each change of one looks at them all.
const maxRoutes = 1000

func (s *server) routeRoutes() {
	tags := []string{"routes"}
	register(s, huma.Operation{OperationID: "set-route", Security: needs(lambent.RoleAdmin), Method: http.MethodPut, Path: routePath, Tags: tags,
		Summary:     "Make or change a route",
		Description: "A host belongs to the namespace that has the first route on it. Routes for every host, and for all names below one, are the node's admin's to make.",
	}, s.setRoute)
	register(s, huma.Operation{OperationID: "get-route", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: routePath, Tags: tags,
		Summary: "Get a route"}, s.getRoute)
	register(s, huma.Operation{OperationID: "delete-route", Security: needs(lambent.RoleAdmin), Method: http.MethodDelete, Path: routePath, Tags: tags,
		Summary: "Delete a route"}, s.deleteRoute)
	register(s, huma.Operation{OperationID: "list-routes", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: routesPath, Tags: tags,
		Summary: "List a namespace's routes, in order of host and path"}, s.listRoutes)
}

// NamedRoute is what every operation on one route takes.
type NamedRoute struct {
	Namespace string `path:"namespace"`
	Name      string `path:"name"`
}

func (n NamedRoute) check() error {
	return errors.Join(lambent.CheckName("namespace", n.Namespace), lambent.CheckName("route", n.Name))
}

type routeOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   *lambent.Route
}

func (s *server) setRoute(ctx context.Context, in *struct {
	NamedRoute
	Preconditions
	Body lambent.RouteSpec
}) (*routeOutput, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	spec, err := in.Body.Complete()
	if err != nil {
		return nil, at("body.", err)
	}
	if spec.Host == "" || strings.HasPrefix(spec.Host, "*.") {
		if err := principalOf(ctx).Require("", lambent.RoleAdmin); err != nil {
			return nil, lambent.ErrorOf(err).WithHint("a route without a host, or with *. before it, may take what is others': name one host, or use the node's admin key")
		}
	}
	s.routing.Lock()
	defer s.routing.Unlock()
	before, err := s.free(ctx, in.NamedRoute, &spec)
	if err != nil {
		return nil, err
	}
	var version uint64
	if before != nil {
		version = before.Version
	}
	if err := in.allow("route", version); err != nil {
		return nil, err
	}
	f, err := s.existing(ctx, Named{in.Namespace, spec.Function})
	if err != nil {
		return nil, at("body.function: ", err)
	}
	if _, err := s.existingAlias(ctx, f, spec.Alias); err != nil {
		return nil, at("body.alias: ", err)
	}
	r := &lambent.Route{Namespace: in.Namespace, Name: in.Name, Version: version, Updated: now(), RouteSpec: spec}
	if before != nil && reflect.DeepEqual(before.RouteSpec, spec) {
		return &routeOutput{http.StatusOK, etag(version), before}, nil
	}
	key := routeKey(in.Namespace, in.Name)
	if r.Version, err = s.Store.Put(ctx, key, encode(r), version); err != nil {
		return nil, err
	}
	if err := s.Applied(ctx, key, r.Version); err != nil {
		return nil, fmt.Errorf("route %s is set, but this node does not route by it yet: %w", r.Name, err)
	}
	s.Logger.Info("route set", "route", r.Namespace+"/"+r.Name, "matches", r.String(), "function", r.Function+":"+r.Alias)
	if before == nil {
		return &routeOutput{http.StatusCreated, etag(r.Version), r}, nil
	}
	return &routeOutput{http.StatusOK, etag(r.Version), r}, nil
}

// free gives the route that n names, nil when there is none and of no more than a version when it cannot be read,
// if nothing else is in the way of spec in its place. What cannot be read is in nobody's way. Two that are asked about at the same time must not both be told that they may: routing is locked.
func (s *server) free(ctx context.Context, n NamedRoute, spec *lambent.RouteSpec) (before *lambent.Route, err error) {
	count := 0
	for entry, err := range s.Store.List(ctx, RoutePrefix) {
		if err != nil {
			return nil, err
		}
		r, err := DecodeRoute(entry)
		switch {
		case err != nil && entry.Key == routeKey(n.Namespace, n.Name):
			before = &lambent.Route{Version: entry.Revision}
		case err != nil:
			s.Logger.Error("control: a route is passed over", "err", err)
		case r.Namespace == n.Namespace && r.Name == n.Name:
			before = r
		case r.Namespace == n.Namespace:
			if count++; count >= maxRoutes {
				return nil, lambent.Errorf(lambent.CodeConflict, "namespace %s has %d routes, the most that it may have", n.Namespace, maxRoutes).
					WithHint("delete some; a path may have parameters: /users/{id}, /files/{rest...}")
			}
			if r.Conflicts(spec) {
				return nil, lambent.Errorf(lambent.CodeConflict, "route %s is for %s already", r.Name, r)
			}
		case spec.Host == "" && r.Host == "" && r.Conflicts(spec), spec.Host != "" && r.Host != "" && r.SharesHost(spec):
			// Whose it is is nobody else's business.
			return nil, lambent.Errorf(lambent.CodeConflict, "%s is taken", cmp.Or(spec.Host, spec.Path)).
				WithHint("choose another; a host, with all names below a wildcard, belongs to one namespace")
		}
	}
	return before, nil
}

func (s *server) routeEntry(ctx context.Context, n NamedRoute) (store.Entry, error) {
	if err := n.check(); err != nil {
		return store.Entry{}, err
	}
	entry, err := s.Store.Get(ctx, routeKey(n.Namespace, n.Name))
	if errors.Is(err, store.ErrNotFound) {
		err = lambent.Errorf(lambent.CodeNotFound, "there is no route %s in namespace %s", n.Name, n.Namespace).
			WithHint("see what there is with: lambent route ls")
	}
	return entry, err
}

func (s *server) getRoute(ctx context.Context, in *struct{ NamedRoute }) (*routeOutput, error) {
	entry, err := s.routeEntry(ctx, in.NamedRoute)
	if err != nil {
		return nil, err
	}
	r, err := DecodeRoute(entry)
	if err != nil {
		return nil, err
	}
	return &routeOutput{http.StatusOK, etag(r.Version), r}, nil
}

func (s *server) deleteRoute(ctx context.Context, in *struct {
	NamedRoute
	IfMatch string `header:"If-Match"`
}) (*struct{}, error) {
	entry, err := s.routeEntry(ctx, in.NamedRoute) // not read: one that is damaged may go, too
	if err != nil {
		return nil, err
	}
	if err := (Preconditions{IfMatch: in.IfMatch}).allow("route", entry.Revision); err != nil {
		return nil, err
	}
	version, err := s.Store.Delete(ctx, entry.Key, entry.Revision)
	if err != nil {
		return nil, err
	}
	if err := s.Applied(ctx, entry.Key, version); err != nil {
		return nil, fmt.Errorf("route %s is deleted, but this node routes by it still: %w", in.Name, err)
	}
	s.Logger.Info("route deleted", "route", in.Namespace+"/"+in.Name)
	return nil, nil
}

// Routes is the list of a namespace's routes.
type Routes struct {
	Routes []*lambent.Route `json:"routes" nullable:"false"`
}

type routesOutput struct{ Body Routes }

func (s *server) listRoutes(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
}) (*routesOutput, error) {
	if err := lambent.CheckName("namespace", in.Namespace); err != nil {
		return nil, err
	}
	out := &routesOutput{Routes{[]*lambent.Route{}}}
	for entry, err := range s.Store.List(ctx, routeKey(in.Namespace, "")) {
		if err != nil {
			return nil, err
		}
		r, err := DecodeRoute(entry)
		if err != nil {
			return nil, err
		}
		out.Body.Routes = append(out.Body.Routes, r)
	}
	slices.SortFunc(out.Body.Routes, func(a, b *lambent.Route) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.Path, b.Path), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}
