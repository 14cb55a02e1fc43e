// What viewer.js uses of three.js; see README.md for how the bundle is made.
export {
  WebGLRenderer, Scene, PerspectiveCamera, Mesh, BufferGeometry, BufferAttribute, PlaneGeometry,
  MeshStandardMaterial, MeshNormalMaterial, MeshBasicMaterial, LineSegments, LineBasicMaterial,
  WireframeGeometry, HemisphereLight, DirectionalLight, Color, DataTexture, LinearFilter,
  DoubleSide, FrontSide, SRGBColorSpace, Group, Vector3, PMREMGenerator,
} from 'three';
export { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
export { RoomEnvironment } from 'three/addons/environments/RoomEnvironment.js';
export { OrbitControls } from 'three/addons/controls/OrbitControls.js';
export { unzlibSync } from 'three/addons/libs/fflate.module.js';
export { toCreasedNormals } from 'three/addons/utils/BufferGeometryUtils.js';
