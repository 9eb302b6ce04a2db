package house

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// TestPackageComments: a package comment is a manual page (STYLE 2).
func TestPackageComments(t *testing.T) {
	has := make(map[string]bool)
	for _, f := range sources(t) {
		if f.test && strings.HasSuffix(f.file.Name.Name, "_test") {
			continue
		}
		has[f.dir] = has[f.dir] || f.file.Doc != nil && len(strings.Fields(f.file.Doc.Text())) >= 5
	}
	for dir, ok := range has {
		if !ok {
			t.Errorf("%s has no package comment: the reader's first question is what it does and what it promises", dir)
		}
	}
}

// TestNoInit: what runs before main cannot be seen in serve.go, and two servers in one process would share it (STYLE 6).
func TestNoInit(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated {
			continue
		}
		for _, d := range f.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function; pass what it sets up to those who need it", f.name)
			}
		}
	}
}

// TestNoExit: only main may end the process.
func TestNoExit(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || f.dir == "cmd/sluice" || below(f.dir, "examples") || f.file.Name.Name == "main" {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok || !slices.Contains(f.imports, pkg.Name) {
				return true
			}
			if pkg.Name == "log" && strings.HasPrefix(sel.Sel.Name, "Fatal") || pkg.Name == "os" && sel.Sel.Name == "Exit" && !mayExit(f.dir) {
				t.Errorf("%s: %s.%s ends the process under everybody; return an error", f.set.Position(call.Pos()), pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// mayExit: sdk/serve is the whole main function of a plugin, and an engine that cannot write its log must not go on (RULES
// B5); what it calls by default when nobody gave it anything better is the end of the process.
func mayExit(dir string) bool { return dir == "sdk/serve" || dir == "storage/kv/pebble" }

// TestLength keeps files and functions at a size that one looks through at once (STYLE 7: 400 and 60 lines; a tenth more is
// not worth a break). An exception has a comment "long: REASON" in the file, or above the function.
func TestLength(t *testing.T) {
	const mostFile, mostFunc = 440, 66
	for _, f := range sources(t) {
		if f.test || f.generated || forTests(f.dir) {
			continue
		}
		if f.lines > mostFile && !excused(f.file.Comments) {
			t.Errorf("%s has %d lines, more than %d: take it apart, or say why not in a comment that begins with \"long:\"", f.name, f.lines, mostFile)
		}
		for _, d := range f.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := f.set.Position(fn.Body.Rbrace).Line - f.set.Position(fn.Pos()).Line + 1
			if n > mostFunc && (fn.Doc == nil || !excused([]*ast.CommentGroup{fn.Doc})) {
				t.Errorf("%s: %s has %d lines, more than %d: take it apart, or say why not in a comment that begins with \"long:\"",
					f.set.Position(fn.Pos()), fn.Name.Name, n, mostFunc)
			}
		}
	}
}

// forTests: packages that only tests import are named so: storagetest, resolvertest.
func forTests(dir string) bool { return strings.HasSuffix(dir, "test") }

func excused(groups []*ast.CommentGroup) bool {
	for _, g := range groups {
		for _, line := range strings.Split(g.Text(), "\n") {
			if strings.HasPrefix(line, "long: ") {
				return true
			}
		}
	}
	return false
}
