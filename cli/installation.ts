/** Ends with `/`; from `build/cli/installation.js` and from the bundle, `build/bundle/shoal.js`, it is as far. */
export const installation = new URL("../../", import.meta.url);
