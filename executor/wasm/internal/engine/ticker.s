// This file lets ticker.go declare functions of package runtime without a body.
