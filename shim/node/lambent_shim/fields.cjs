'use strict';

// RFC 9110, section 7.6.1, without content-length.
const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te',
  'trailer', 'transfer-encoding', 'upgrade']);

/** Tells the names of fields that are between two neighbours and not for those behind them. */
exports.isHopByHop = (name) => HOP_BY_HOP.has(name.toLowerCase());

/** Tells the names that belong to the host and the shim. */
exports.isOurs = (name) => /^lambent[-_]/i.test(name);
